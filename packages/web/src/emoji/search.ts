// Searches emoji by a part of their names.

import { GROUPS, type Emoji } from "./emoji.js";

/** Maximum number of results: what the picker shows without scrolling. */
const MAX_RESULTS = 64;

const foldText = (text: string) => text.toLowerCase().normalize("NFD").replace(/\p{M}/gu, "").trim();

/** The emoji's name in the user's language. */
export function spokenName(emoji: Emoji, language: string): string {
  return (language === "de" ? emoji.names.de : emoji.names.en)[0]!;
}

/** Emoji with a name that starts with `wanted`, then those whose name contains it; in English and in the user's language. */
export function search(wanted: string, language: string): Emoji[] {
  const text = foldText(wanted);
  const startingWithText: Emoji[] = [];
  const containingText: Emoji[] = [];
  for (const emoji of GROUPS.flatMap((group) => group.emoji)) {
    const names = [...emoji.names.en, ...(language === "de" ? emoji.names.de : [])].map(foldText);
    if (names.some((name) => name.startsWith(text))) startingWithText.push(emoji);
    else if (names.some((name) => name.includes(text))) containingText.push(emoji);
  }
  return [...startingWithText, ...containingText].slice(0, MAX_RESULTS);
}
