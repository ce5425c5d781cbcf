// The delivery state of the user's last message.

import type { ConversationMember, ChatMessage } from "@switchboard/client";

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
export function lastOwn(messages: readonly ChatMessage[], me: string): ChatMessage | undefined {
  return messages.findLast(({ from, deleted, seq }) => from === me && !deleted && seq !== undefined);
}
