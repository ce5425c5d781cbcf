// Parses a small subset of Markdown: paragraphs with their line breaks, code blocks, quotes and simple lists. Other
// markup stays text.

import { parseInline } from "./inline.js";
import type { Block } from "./tree.js";

/** Maximum depth of nested quotes; deeper ones are text. */
const MAX_QUOTES = 4;

const FENCE_LINE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]{0,32})\s*$/;
const QUOTE_PREFIX = /^ {0,3}> ?/;
const BULLET_PREFIX = /^ {0,3}[-*+] +(?=\S)/;
const NUMBER_PREFIX = /^ {0,3}(\d{1,9})[.)] +(?=\S)/;

export function parse(text: string): Block[] {
  return parseLines(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

function parseLines(lines: string[], depth: number): Block[] {
  const blocks: Block[] = [];
  let paragraph: string[] = [];
  const endParagraph = () => {
    if (paragraph.length) blocks.push({ type: "paragraph", children: parseInline(paragraph.join("\n")) });
    paragraph = [];
  };
  let at = 0;
  /** Consumes lines while they match, and returns each without the match. */
  const takeWhile = (pattern: RegExp): string[] => {
    const from = at;
    while (at < lines.length && pattern.test(lines[at]!)) at++;
    return lines.slice(from, at).map((line) => line.replace(pattern, ""));
  };

  while (at < lines.length) {
    const line = lines[at]!;
    const fence = FENCE_LINE.exec(line);
    const number = NUMBER_PREFIX.exec(line);
    if (fence) {
      endParagraph();
      at = appendCodeBlock(lines, at, fence[1]!, fence[2]!, blocks);
    } else if (QUOTE_PREFIX.test(line) && depth < MAX_QUOTES) {
      endParagraph();
      blocks.push({ type: "quote", children: parseLines(takeWhile(QUOTE_PREFIX), depth + 1) });
    } else if (BULLET_PREFIX.test(line) || number) {
      endParagraph();
      const items = takeWhile(number ? NUMBER_PREFIX : BULLET_PREFIX).map((item) => parseInline(item));
      blocks.push({ type: "list", start: number ? Number(number[1]) : undefined, items });
    } else {
      if (line.trim()) paragraph.push(line);
      else endParagraph();
      at++;
    }
  }
  endParagraph();
  return blocks;
}

/** A code block that begins at line `at` and ends at its fence or at the end of the text, and the next line's index. */
function appendCodeBlock(lines: string[], at: number, fence: string, language: string, blocks: Block[]): number {
  let end = at + 1;
  // The closing fence is at least as long as the opening one.
  while (end < lines.length && !(lines[end]!.trim().startsWith(fence) && FENCE_LINE.test(lines[end]!))) end++;
  blocks.push({ type: "code", language, text: lines.slice(at + 1, end).join("\n") });
  return end + 1;
}
