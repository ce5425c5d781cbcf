// Renders a text without markup in one line, for lists, quotes, notifications and screen readers.

import type { Language } from "../i18n/language.svelte.js";
import { parse } from "./markdown.js";
import type { Block, Inline } from "./tree.js";

/** Default maximum length, in characters: more than a list, a quote or a notification shows. */
const MAX_CHARS = 300;

/** The text of a part of a line. */
export const inlineText = (nodes: Inline[]): string =>
  nodes
    .map((node) => {
      switch (node.type) {
        case "text":
        case "code":
          return node.text;
        case "break":
          return " ";
        case "mention":
          return `@${node.user}`;
        default:
          return inlineText(node.children);
      }
    })
    .join("");

const block = (node: Block): string => {
  switch (node.type) {
    case "paragraph":
      return inlineText(node.children);
    case "code":
      return node.text;
    case "quote":
      return node.children.map(block).join(" ");
    case "list":
      return node.items.map(inlineText).join(", ");
  }
};

export function plain(text: string, most = MAX_CHARS): string {
  const line = parse(text.slice(0, MAX_CHARS * 4))
    .map(block)
    .join(" ")
    .replace(/\s+/g, " ")
    .trim();
  const chars = [...line.slice(0, most * 2)];
  return chars.length > most || line.length > most * 2 ? `${chars.slice(0, most).join("")}…` : line;
}

interface Previewed {
  readonly text?: string;
  readonly deleted?: boolean;
}

/** A message in one line, for lists, quotes, notifications and announcements. */
export function previewOf({ text, deleted }: Previewed, t: Language["t"], most = MAX_CHARS): string {
  if (deleted) return t("deleted");
  return text ? plain(text, most) : t("attachment");
}

const EMOJI =
  /^(?:\p{Extended_Pictographic}(?:\u200d\p{Extended_Pictographic}|[\u{1f3fb}-\u{1f3ff}\ufe0f])*|\p{Regional_Indicator}{2}|\s){1,6}$/u;

/** Whether a text is only a few emoji, which are shown large. */
export function onlyEmoji(text: string): boolean {
  return text.length <= 40 && text.trim() !== "" && EMOJI.test(text);
}
