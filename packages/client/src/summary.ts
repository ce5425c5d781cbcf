// How a conversation stands, as events change it.

import { usersOf } from "./names.js";
import type { Event, Summary, UserId } from "./protocol.js";
import { compact, fromWire } from "./timeline.js";
import type { ChatMessage, ConversationInfo } from "./types.js";

/** Whether it is `me` who goes. */
export function isLeaving(event: Event, me: UserId | undefined): boolean {
  return (event.type === "leave" && event.from === me) || (event.type === "remove" && event.user === me);
}

/** How it stands after an event; one that it has in it already changes nothing. */
export function after(summary: Summary, event: Event, me: UserId | undefined): Summary {
  if (event.seq <= summary.head) return summary;
  const next: Summary = { ...summary, head: event.seq, at: event.at };
  const { last } = summary;
  switch (event.type) {
    case "message":
      next.last = event;
      if (event.from !== me && event.seq > summary.read) next.unread++;
      break;
    case "edit":
      if (event.target === last?.seq && !last.deleted && !event.deleted) {
        next.last = compact({ ...last, text: event.text, data: event.data });
      }
      break;
    case "delete":
      if (event.target === last?.seq) {
        const { type, conversation, seq, from, at, key } = last;
        next.last = compact({ type, conversation, seq, from, at, key, deleted: true });
      }
      break;
    case "join":
    case "invite":
      next.members++;
      break;
    case "leave":
    case "remove":
      next.members--;
      break;
    case "rename":
      next.title = event.title;
      break;
    case "role":
      if (event.user === me) next.role = event.role;
  }
  return next;
}

/** The same for an app. The last message is the one of the list, where that has it. */
export function describe(
  summary: Summary,
  me: UserId | undefined,
  find: (seq: number) => ChatMessage | undefined,
): ConversationInfo {
  const { conversation: id, members: memberCount, last, ...rest } = summary;
  const [first, second] = usersOf(id);
  const peer = first === me ? second : first;
  return compact({ public: false, id, memberCount, ...rest, peer, last: last && (find(last.seq) ?? fromWire(last)) });
}
