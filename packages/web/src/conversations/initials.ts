// What an avatar shows in place of a picture.

const EMOJI = /^\p{Extended_Pictographic}(?:\u200d\p{Extended_Pictographic}|[\u{1f3fb}-\u{1f3ff}\ufe0f])*/u;

const letters = (text: string) => [...text].filter((char) => /[\p{L}\p{N}]/u.test(char));

/** Two letters of a user's id: the first ones of its first two words, otherwise of the id. */
export function initials(user: string): string {
  const words = user
    .replace(/^@/, "")
    .split(/[\s._~+=|@-]+/)
    .filter((word) => letters(word).length);
  const [first = "", second] = words;
  const letterPair = second === undefined ? letters(first).slice(0, 2) : [letters(first)[0]!, letters(second)[0]!];
  return letterPair.join("").toLocaleUpperCase() || "?";
}

/** The emoji with which a room's title begins, otherwise its first letter. */
export function roomSign(title: string): string {
  return EMOJI.exec(title)?.[0] ?? letters(title)[0]?.toLocaleUpperCase() ?? "#";
}
