// Reactions are stored without U+FE0F, which asks for the coloured form of an emoji: with it and without it is one reaction.

/** The name under which a reaction is stored. */
export const folded = (emoji: string): string => emoji.replaceAll("\u{fe0f}", "");

const TEXT_BY_DEFAULT =
  /(?!\p{Emoji_Presentation})\p{Extended_Pictographic}(?![\u{fe0e}\u{fe0f}\u{1f3fb}-\u{1f3ff}])|[0-9#*](?=\u{20e3})/gu;

/** A reaction in its coloured form: what browsers draw as text without U+FE0F gets it. */
export const coloured = (emoji: string): string => emoji.replace(TEXT_BY_DEFAULT, "$&\u{fe0f}");
