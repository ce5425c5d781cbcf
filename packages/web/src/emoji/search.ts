// Emoji by a part of their names.

import { GROUPS, type Emoji } from "./emoji.js";

/** What the picker shows without scrolling. */
const MOST = 64;

const fold = (text: string) => text.toLowerCase().normalize("NFD").replace(/\p{M}/gu, "").trim();

/** What it is called in one's language. */
export function spokenName(emoji: Emoji, language: string): string {
  return (language === "de" ? emoji.names.de : emoji.names.en)[0]!;
}

/** Those with a name that begins like what is wanted, then those with it anywhere; in English, and in one's language. */
export function search(wanted: string, language: string): Emoji[] {
  const text = fold(wanted);
  const begins: Emoji[] = [];
  const contains: Emoji[] = [];
  for (const emoji of GROUPS.flatMap((group) => group.emoji)) {
    const names = [...emoji.names.en, ...(language === "de" ? emoji.names.de : [])].map(fold);
    if (names.some((name) => name.startsWith(text))) begins.push(emoji);
    else if (names.some((name) => name.includes(text))) contains.push(emoji);
  }
  return [...begins, ...contains].slice(0, MOST);
}
