// Display names of conversations.

import type { Language } from "../i18n/language.svelte.js";

/** The other user of a direct conversation, the user `me` in a note to self, `undefined` for a room. */
export function peerOf(conversation: string, me: string): string | undefined {
  if (!conversation.startsWith("@")) return undefined;
  const [first = "", second] = conversation.slice(1).split(":");
  return second === undefined || first !== me ? first : second;
}

export function nameOf(conversation: string, title: string | undefined, me: string, { t }: Language): string {
  const peer = peerOf(conversation, me);
  if (peer === undefined) return title ?? conversation;
  return peer === me ? t("noteToSelf") : peer;
}
