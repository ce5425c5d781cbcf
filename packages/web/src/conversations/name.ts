// Display names of conversations.

import type { AppState } from "../app/app-state.svelte.js";

/** The other user of a direct conversation, the user `me` in a note to self, `undefined` for a room. */
export function peerOf(conversation: string, me: string): string | undefined {
  if (!conversation.startsWith("@")) return undefined;
  const [first = "", second] = conversation.slice(1).split(":");
  return second === undefined || first !== me ? first : second;
}

type Names = Pick<AppState, "me" | "language" | "people">;

export function nameOf(conversation: string, title: string | undefined, { me, language, people }: Names): string {
  const peer = peerOf(conversation, me);
  if (peer === undefined) return title ?? conversation;
  return peer === me ? language.t("noteToSelf") : people.name(peer);
}
