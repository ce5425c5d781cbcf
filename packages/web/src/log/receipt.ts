// The delivery state of the user's last message.

import type { ConversationMember, ChatMessage } from "@switchboard/client";
import type { Item } from "./rows.js";

export type Receipt = { reached: "sent" | "delivered" | "read"; readers: string[] };

/** The receipt; `undefined` if the message is not stored yet. Rooms have no "delivered", because it names no members. */
export function receiptOf(
  message: ChatMessage,
  members: readonly ConversationMember[],
  me: string,
  direct: boolean,
): Receipt | undefined {
  const { seq } = message;
  if (seq === undefined) return undefined;
  const others = members.filter(({ user }) => user !== me);
  const readers = others.filter(({ read }) => read >= seq).map(({ user }) => user);
  if (readers.length) return { reached: "read", readers };
  const delivered = direct && others.some(({ received }) => received >= seq);
  return { reached: delivered ? "delivered" : "sent", readers };
}

/** The user's last message that is stored and not deleted. */
export function lastOwn(items: readonly Item[], me: string): ChatMessage | undefined {
  return items.findLast(
    (item): item is ChatMessage =>
      item.kind === "message" && item.from === me && !item.deleted && item.seq !== undefined,
  );
}
