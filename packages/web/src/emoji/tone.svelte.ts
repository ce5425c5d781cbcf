// The skin tone of emoji, which the user chooses once.

import { localStore } from "../app/storage.js";

/** The modifiers of Unicode, from the lightest; the first one is none. */
export const TONES = ["", "\u{1f3fb}", "\u{1f3fc}", "\u{1f3fd}", "\u{1f3fe}", "\u{1f3ff}"] as const;
export type Tone = (typeof TONES)[number];

const TONEABLE_EMOJI = /(\p{Emoji_Modifier_Base})\ufe0f?/gu;
const MODIFIER = /\p{Emoji_Modifier}/u;

function loadTone(): Tone {
  const stored = localStore.get("tone");
  return TONES.find((one) => one === stored) ?? "";
}

let chosen = $state<Tone>(loadTone());

export const tone = {
  get current(): Tone {
    return chosen;
  },

  choose(one: Tone): void {
    chosen = one;
    localStore.set("tone", one || undefined);
  },
};

/** The emoji in a skin tone, if it shows a person and has no tone yet. */
export function toned(emoji: string, by: Tone = chosen): string {
  return by && !MODIFIER.test(emoji) ? emoji.replace(TONEABLE_EMOJI, `$1${by}`) : emoji;
}
