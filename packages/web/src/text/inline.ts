// Parses inline markup: emphasis, code, links, mentions. One pass from left to right; every step consumes text or looks up
// a precomputed position, so the time is linear in the length of the text.

import { address, bareLink, MAX_LINK } from "./link.js";
import type { Inline } from "./tree.js";

type Emphasis = "strong" | "em" | "del";
const EMPHASIS_BY_MARK: Record<string, Emphasis> = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };

const WORD_CHARACTER = /[\p{L}\p{N}_]/u;
const WHITE_SPACE = /\s/;
/** A run of characters that begin no markup. */
const PLAIN_TEXT = /[^\\`*_~[\]@hm\n]+/y;
const USER_MENTION = /@([A-Za-z0-9][A-Za-z0-9._~+=|@-]{0,63})/y;
const ESCAPABLE = /[\\`*_~[\]@>#-]/;

/** An emphasis that has begun. The node at index `at` is its mark as text, and the later nodes will be its content. */
interface Open {
  mark: string;
  at: number;
}

export function parseInline(text: string, inLink = false): Inline[] {
  return new Line(text, inLink).parse();
}

class Line {
  #text: string;
  #inLink: boolean;
  #at = 0;
  #nodes: Inline[] = [];
  #plain = "";
  /** The emphases that have begun: at most one of each mark, which bounds the depth of the tree. */
  #open: Open[] = [];
  #ticks: Map<number, number>;
  #brackets: Map<number, number>;

  constructor(text: string, inLink: boolean) {
    this.#text = text;
    this.#inLink = inLink;
    this.#ticks = closingTicks(text);
    this.#brackets = inLink ? new Map() : closingBrackets(text);
  }

  parse(): Inline[] {
    while (this.#at < this.#text.length) {
      PLAIN_TEXT.lastIndex = this.#at;
      const plain = PLAIN_TEXT.exec(this.#text)?.[0];
      if (plain) this.#addText(plain);
      else if (!this.#parseMarkup()) this.#addText(this.#text[this.#at]!);
    }
    this.#flush();
    return this.#nodes;
  }

  #addText(text: string): void {
    this.#plain += text;
    this.#at += text.length;
  }

  #flush(): void {
    if (this.#plain) this.#nodes.push({ type: "text", text: this.#plain });
    this.#plain = "";
  }

  #push(node: Inline, length: number): true {
    this.#flush();
    this.#nodes.push(node);
    this.#at += length;
    return true;
  }

  /** Handles markup that begins or ends at this position. Returns false if there is none. */
  #parseMarkup(): boolean {
    const char = this.#text[this.#at]!;
    switch (char) {
      case "\n":
        return this.#push({ type: "break" }, 1);
      case "\\":
        return this.#escape();
      case "`":
        return this.#code();
      case "[":
        return this.#namedLink();
      case "@":
        return this.#mention();
      case "h":
      case "m":
        return this.#bareLink();
      case "*":
      case "_":
      case "~":
        return this.#emphasis(char);
      default:
        return false;
    }
  }

  #afterWord(): boolean {
    return this.#at > 0 && WORD_CHARACTER.test(this.#text[this.#at - 1]!);
  }

  #escape(): boolean {
    const next = this.#text[this.#at + 1];
    if (next === undefined || !ESCAPABLE.test(next)) return false;
    this.#at++;
    this.#addText(next);
    return true;
  }

  #code(): boolean {
    const from = this.#at;
    let length = 1;
    while (this.#text[from + length] === "`") length++;
    const close = this.#ticks.get(from);
    if (close === undefined) {
      this.#addText("`".repeat(length));
      return true;
    }
    const inside = this.#text.slice(from + length, close).replaceAll("\n", " ");
    // Remove one space on both sides, which separates backticks in the code from the delimiters.
    const text = /^ .*[^ ].* $/.test(inside) ? inside.slice(1, -1) : inside;
    return this.#push({ type: "code", text }, close + length - from);
  }

  #namedLink(): boolean {
    const middle = this.#brackets.get(this.#at);
    if (middle === undefined) return false;
    const end = this.#text.indexOf(")", middle);
    const href = address(this.#text.slice(middle + 2, end));
    const name = this.#text.slice(this.#at + 1, middle);
    if (href === undefined || !name.trim()) return false;
    return this.#push({ type: "link", href, children: parseInline(name, true) }, end + 1 - this.#at);
  }

  #bareLink(): boolean {
    if (this.#inLink || this.#afterWord()) return false;
    const link = bareLink(this.#text, this.#at);
    if (!link) return false;
    const { text, href } = link;
    if (href !== undefined) return this.#push({ type: "link", href, children: [{ type: "text", text }] }, text.length);
    this.#addText(text);
    return true;
  }

  #mention(): boolean {
    if (this.#inLink || this.#afterWord()) return false;
    USER_MENTION.lastIndex = this.#at;
    // Punctuation after a mention mostly ends the sentence, although ids may end with it.
    const user = USER_MENTION.exec(this.#text)?.[1]?.replace(/[._~+=|@-]+$/, "");
    return user ? this.#push({ type: "mention", user }, user.length + 1) : false;
  }

  #emphasis(char: string): boolean {
    let length = 1;
    while (this.#text[this.#at + length] === char) length++;
    // More than three marks in a row are text, such as a drawn line.
    if (length > 3) {
      this.#addText(char.repeat(length));
      return true;
    }
    const before = this.#text[this.#at - 1] ?? " ";
    const after = this.#text[this.#at + length] ?? " ";
    const closes = !WHITE_SPACE.test(before) && !WORD_CHARACTER.test(after);
    const opens = !WHITE_SPACE.test(after) && !WORD_CHARACTER.test(before);
    const marks = length === 3 ? [char + char, char] : [char.repeat(length)];
    if (marks.some((mark) => !(mark in EMPHASIS_BY_MARK)) || !(closes || opens)) {
      this.#addText(char.repeat(length));
      return true;
    }
    this.#at += length;
    if (closes && this.#closeAll(marks)) return true;
    this.#flush();
    for (const mark of marks) {
      if (opens) this.#open = this.#open.filter((open) => open.mark !== mark);
      if (opens) this.#open.push({ mark, at: this.#nodes.length });
      this.#nodes.push({ type: "text", text: mark });
    }
    return true;
  }

  /** Ends the emphases with these marks, if all of them have begun. Returns whether it did. */
  #closeAll(marks: string[]): boolean {
    if (!marks.every((mark) => this.#open.some((open) => open.mark === mark))) return false;
    this.#flush();
    const byDepth = marks.map((mark) => this.#open.findIndex((open) => open.mark === mark)).sort((a, b) => b - a);
    for (const index of byDepth) {
      const { mark, at } = this.#open[index]!;
      const children = this.#nodes.splice(at).slice(1);
      this.#nodes.push({ type: EMPHASIS_BY_MARK[mark]!, children });
      this.#open.length = index;
    }
    return true;
  }
}

/** For each run of backticks, the position of the next run of the same length, which closes the code. */
function closingTicks(text: string): Map<number, number> {
  const rows = [...text.matchAll(/`+/g)];
  const next = new Map<number, number>();
  const ends = new Map<number, number>();
  for (const row of rows.reverse()) {
    const end = next.get(row[0].length);
    if (end !== undefined) ends.set(row.index, end);
    next.set(row[0].length, row.index);
  }
  return ends;
}

/** For each `[` that may begin a link, the position of its `](`. */
function closingBrackets(text: string): Map<number, number> {
  const pairs = new Map<number, number>();
  const open: number[] = [];
  let paren = -1;
  for (const { index, 0: char } of text.matchAll(/[[\]]/g)) {
    if (char === "[") {
      open.push(index);
      continue;
    }
    const start = open.pop();
    if (start === undefined || text[index + 1] !== "(") continue;
    // Search again only after the last found position, so that the total time is linear.
    if (paren < index) paren = text.indexOf(")", index);
    if (paren < 0) break;
    if (paren - index <= MAX_LINK) pairs.set(start, index);
  }
  return pairs;
}
