// One conversation: its log, its members, and the current state of its messages.

import type {
  ConversationId,
  Event,
  HistoryBody,
  LogBody,
  Member,
  Message,
  Role,
  Seq,
  Summary,
  Timestamp,
  UserId,
} from "../protocol.js";
import { notFound, Refusal } from "./refusal.js";

/** The type of an event and the fields that are not common to all events. */
export type EventBody = Event extends infer E
  ? E extends Event
    ? Omit<E, "conversation" | "seq" | "from" | "at">
    : never
  : never;

export interface Membership {
  role: Role;
  /** The event with which the user joined, and the one with which the user left. */
  joinSeq: Seq;
  leaveSeq?: Seq;
  read: Seq;
  received: Seq;
}

/** The last event about one user's reaction with one emoji to one message. `on`: the event added the reaction. */
interface ReactionState {
  seq: Seq;
  isSet: boolean;
}

export class ConversationLog {
  readonly id: ConversationId;
  readonly public: boolean;
  title: string | undefined;
  readonly events: Event[] = [];
  /** The current and former members. */
  readonly memberships = new Map<UserId, Membership>();
  /** The number of the last event, counted over all logs, to sort logs by activity. */
  lastActivity = 0;
  #messageBySeq = new Map<Seq, Message>();
  /** The reactions, also removed ones. The key contains the message, the emoji and the user. */
  #reactionByKey = new Map<string, ReactionState>();

  constructor(id: ConversationId, open = false, title?: string) {
    this.id = id;
    this.public = open;
    this.title = title;
  }

  get isRoom(): boolean {
    return this.id.startsWith("#");
  }

  get head(): Seq {
    return this.events.length;
  }

  /** The current members. */
  get members(): [UserId, Membership][] {
    return [...this.memberships].filter(([, { leaveSeq }]) => leaveSeq === undefined);
  }

  // ---- Access checks.

  checkedMembership(user: UserId): Membership {
    const membership = this.memberships.get(user);
    if (!membership || membership.leaveSeq !== undefined) throw notFound();
    return membership;
  }

  /** The last event that a user may see. */
  visibleHead(user: UserId): Seq {
    const membership = this.memberships.get(user);
    if (!membership) throw notFound();
    return Math.min(membership.leaveSeq ?? this.head, this.head);
  }

  get messages(): Message[] {
    return [...this.#messageBySeq.values()];
  }

  checkedMessage(seq: Seq): Message {
    const message = this.#messageBySeq.get(seq);
    if (!message) throw notFound();
    return message;
  }

  lastReaction(target: Seq, emoji: string, user: UserId): ReactionState | undefined {
    return this.#reactionByKey.get(JSON.stringify([target, emoji, user]));
  }

  // ---- Changes.

  append(from: UserId, body: EventBody, at: Timestamp): Event {
    const { type, ...fields } = body;
    const event = { type, conversation: this.id, seq: this.head + 1, from, at, ...fields } as Event;
    this.events.push(event);
    this.#applyEvent(event);
    return event;
  }

  addMember(user: UserId, role: Role): void {
    const seq = this.isRoom ? this.head + 1 : 0;
    this.memberships.set(user, { role, joinSeq: seq, read: seq, received: seq });
  }

  #applyEvent(event: Event): void {
    if (event.type === "message") {
      this.#messageBySeq.set(event.seq, structuredClone(event));
    } else if (event.type === "edit") {
      if (event.deleted) return;
      const { text: _text, data: _data, ...message } = this.checkedMessage(event.target);
      const { text, data, seq, at } = event;
      const content = { ...(text !== undefined && { text }), ...(data !== undefined && { data }) };
      this.#messageBySeq.set(event.target, { ...message, ...content, edited: { seq, at } });
    } else if (event.type === "delete") {
      this.#eraseContent(event.target);
    } else if (event.type === "react") {
      const { target, emoji, on, seq, from } = event;
      this.#reactionByKey.set(JSON.stringify([target, emoji, from]), { seq, isSet: on });
      this.#messageBySeq.set(target, withReaction(this.checkedMessage(target), emoji, from, on));
    } else if (event.type === "rename") {
      this.title = event.title;
    }
  }

  /** Erases the content of a deleted message and of its edits from the raw log. */
  #eraseContent(target: Seq): void {
    const { type, conversation, seq, from, at, key } = this.checkedMessage(target);
    const erasedMessage = { type, conversation, seq, from, at, ...(key !== undefined && { key }), deleted: true };
    this.#messageBySeq.set(target, erasedMessage);
    this.events.forEach((event, n) => {
      if (event.type === "message" && event.seq === target) this.events[n] = erasedMessage;
      else if (event.type === "edit" && event.target === target) {
        const { text: _text, data: _data, ...rest } = event;
        this.events[n] = { ...rest, deleted: true };
      }
    });
  }

  /** Removes all events after `head`, like a server that was restored from an older backup. */
  truncate(head: Seq): void {
    const events = this.events.splice(0).slice(0, head);
    this.#messageBySeq.clear();
    this.#reactionByKey.clear();
    for (const event of events) {
      this.events.push(event);
      this.#applyEvent(event);
    }
    for (const membership of this.memberships.values()) {
      membership.read = Math.min(membership.read, head);
      membership.received = Math.min(membership.received, head);
    }
  }

  // ---- Pages.

  logPage(user: UserId, after: Seq, limit: number): LogBody {
    const head = this.visibleHead(user);
    if (after > head) throw new Refusal("bad_cursor", "the log ends before this cursor");
    const end = Math.min(head, after + limit);
    return { conversation: this.id, events: this.events.slice(after, end), head, more: end < head };
  }

  historyPage(user: UserId, limit: number, before = Infinity): HistoryBody {
    const head = this.visibleHead(user);
    const messages = this.#messagesUpto(Math.min(head, before - 1));
    return { conversation: this.id, messages: messages.slice(-limit), head, more: messages.length > limit };
  }

  /** A page around an event: half of its messages are from before the event, the others from the event on. */
  pageAround(user: UserId, limit: number, seq: Seq): HistoryBody & { more_after: boolean } {
    const head = this.visibleHead(user);
    if (seq > head) throw new Refusal("bad_cursor", "around: the log ends before this event", "around");
    const all = this.#messagesUpto(head);
    const before = all.filter((message) => message.seq < seq);
    const from = all.slice(before.length);
    const half = Math.floor(limit / 2);
    const page = [...before.slice(before.length - Math.min(half, before.length)), ...from.slice(0, limit - half)];
    const more = before.length > half;
    return { conversation: this.id, messages: page, head, more, more_after: from.length > limit - half };
  }

  #messagesUpto(head: Seq): Message[] {
    return this.messages.filter(({ seq }) => seq <= head);
  }

  countUnread(user: UserId): number {
    const { read } = this.checkedMembership(user);
    return this.messages.filter(({ seq, from }) => seq > read && from !== user).length;
  }

  summaryFor(user: UserId): Summary {
    const { role, read, received } = this.checkedMembership(user);
    const last = this.messages.at(-1);
    return {
      conversation: this.id,
      ...(this.title !== undefined && { title: this.title }),
      ...(this.public && { public: true }),
      role,
      members: this.members.length,
      head: this.head,
      at: this.events.at(-1)?.at ?? new Date(0).toISOString(),
      read,
      received,
      unread: this.countUnread(user),
      ...(last && { last }),
    };
  }

  memberList(): Member[] {
    return this.members.map(([user, { role, read, received }]) => ({ user, role, read, received }));
  }
}

function withReaction(message: Message, emoji: string, from: UserId, on: boolean): Message {
  if (message.deleted) return message;
  const { reactions, ...rest } = message;
  const all = new Map(Object.entries(reactions ?? {}));
  const others = (all.get(emoji) ?? []).filter((user) => user !== from);
  if (on) others.push(from);
  if (others.length) all.set(emoji, others);
  else all.delete(emoji);
  // `fromEntries` makes own properties of any names, `__proto__` included.
  return all.size ? { ...rest, reactions: Object.fromEntries(all) } : rest;
}
