// The emoji that the user has used lately, latest first, stored in the browser.

import { localStore } from "../app/storage.js";
import { withoutEmojiSelector } from "./reaction.js";

/** Maximum number of stored emoji: two rows of the picker. */
const MAX_RECENT = 16;
/** The choices of a user who has not used any. */
const DEFAULT_EMOJI = ["👍", "❤️", "😂", "🎉", "😮", "😢"];

function loadRecentEmoji(): string[] {
  try {
    const stored: unknown = JSON.parse(localStore.get("emoji") ?? "[]");
    return Array.isArray(stored) ? stored.filter((one) => typeof one === "string").slice(0, MAX_RECENT) : [];
  } catch {
    return [];
  }
}

let used = $state.raw(loadRecentEmoji());

export const recent = {
  get all(): readonly string[] {
    return used;
  },

  /** The `n` emoji to offer for a quick reaction: the latest, then the usual ones. */
  quick(n: number): string[] {
    const known = new Set(used.map(withoutEmojiSelector));
    return [...used, ...DEFAULT_EMOJI.filter((emoji) => !known.has(withoutEmojiSelector(emoji)))].slice(0, n);
  },

  /** Forgets the user's emoji, at signing out. */
  clear(): void {
    used = [];
    localStore.set("emoji", undefined);
  },

  add(emoji: string): void {
    used = [emoji, ...used.filter((one) => withoutEmojiSelector(one) !== withoutEmojiSelector(emoji))].slice(
      0,
      MAX_RECENT,
    );
    localStore.set("emoji", JSON.stringify(used));
  },
};
