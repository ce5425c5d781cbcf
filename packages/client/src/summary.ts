// The summary of a conversation, and how events change it.

import { usersOfDirect } from "./names.js";
import type { Event, Summary, UserId } from "./protocol.js";
import { compact } from "./compact.js";
import { applyAmendment, messageFromWire, isAmendment, type StoredMessage } from "./timeline.js";
import type { ChatMessage, ConversationInfo } from "./types.js";

/** Whether this event says that the user `me` left or was removed. */
export function endsMembershipOf(event: Event, me: UserId | undefined): boolean {
  return (event.type === "leave" && event.from === me) || (event.type === "remove" && event.user === me);
}

/** A summary of the protocol, with the last message in the form that an app sees. */
export type RoomSummary = Omit<Summary, "last"> & { last?: StoredMessage };

export const summaryFromWire = ({ last, ...summary }: Summary): RoomSummary => ({
  ...summary,
  ...(last && { last: messageFromWire(last) }),
});

/** The summary after an event; unchanged if the summary already includes the event. */
export function summaryAfter(summary: RoomSummary, event: Event, me: UserId | undefined): RoomSummary {
  if (event.seq <= summary.head) return summary;
  const next = { ...summary, head: event.seq, at: event.at };
  const { last } = summary;
  if (isAmendment(event)) {
    if (last?.seq === event.target) next.last = applyAmendment(last, event);
    return next;
  }
  switch (event.type) {
    case "message":
      next.last = messageFromWire(event);
      if (event.from !== me && event.seq > summary.read) next.unread++;
      break;
    case "join":
    case "invite":
      next.members++;
      break;
    case "leave":
      next.members--;
      break;
    case "remove":
      if (!event.absent) next.members--;
      break;
    case "rename":
      next.title = event.title;
      break;
    case "role":
      if (event.user === me) next.role = event.role;
  }
  return next;
}

/** The summary in the form that an app sees. The last message is taken from the list if it is there. */
export function infoOf(
  summary: RoomSummary,
  me: UserId | undefined,
  find: (seq: number) => ChatMessage | undefined,
): ConversationInfo {
  const { conversation: id, members: memberCount, last, ...rest } = summary;
  const [first, second] = usersOfDirect(id);
  const peer = first === me ? second : first;
  return compact({ public: false, id, memberCount, ...rest, peer, last: last && (find(last.seq) ?? last) });
}
