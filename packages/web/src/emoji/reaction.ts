// Reactions are stored without U+FE0F, the selector of an emoji's coloured form, so that both forms are one reaction.

/** The emoji in the form that the server stores: without U+FE0F. */
export const withoutEmojiSelector = (emoji: string): string => emoji.replaceAll("\u{fe0f}", "");

const TEXT_BY_DEFAULT =
  /(?!\p{Emoji_Presentation})\p{Extended_Pictographic}(?![\u{fe0e}\u{fe0f}\u{1f3fb}-\u{1f3ff}])|[0-9#*](?=\u{20e3})/gu;

/** The emoji in its coloured form: adds U+FE0F where browsers would otherwise draw text. */
export const withEmojiSelector = (emoji: string): string => emoji.replace(TEXT_BY_DEFAULT, "$&\u{fe0f}");
