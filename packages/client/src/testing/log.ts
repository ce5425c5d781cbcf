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
export type Body = Event extends infer E
  ? E extends Event
    ? Omit<E, "conversation" | "seq" | "from" | "at">
    : never
  : never;

export interface Membership {
  role: Role;
  /** The event with which the user joined, and the one with which the user left. */
  since: Seq;
  until?: Seq;
  read: Seq;
  received: Seq;
}

/** The last event about one user's reaction with one emoji to one message. `on`: the event added the reaction. */
interface Reaction {
  seq: Seq;
  on: boolean;
}

export class Log {
  readonly id: ConversationId;
  readonly public: boolean;
  title: string | undefined;
  readonly events: Event[] = [];
  /** The current and former members. */
  readonly memberships = new Map<UserId, Membership>();
  /** The number of the last event, counted over all logs, to sort logs by activity. */
  activity = 0;
  #messages = new Map<Seq, Message>();
  /** The reactions, also removed ones. The key contains the message, the emoji and the user. */
  #reactions = new Map<string, Reaction>();

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
    return [...this.memberships].filter(([, { until }]) => until === undefined);
  }

  // ---- Access checks.

  member(user: UserId): Membership {
    const membership = this.memberships.get(user);
    if (!membership || membership.until !== undefined) throw notFound();
    return membership;
  }

  /** The last event that a user may see. */
  visible(user: UserId): Seq {
    const membership = this.memberships.get(user);
    if (!membership) throw notFound();
    return Math.min(membership.until ?? this.head, this.head);
  }

  get messages(): Message[] {
    return [...this.#messages.values()];
  }

  message(seq: Seq): Message {
    const message = this.#messages.get(seq);
    if (!message) throw notFound();
    return message;
  }

  reaction(target: Seq, emoji: string, user: UserId): Reaction | undefined {
    return this.#reactions.get(JSON.stringify([target, emoji, user]));
  }

  // ---- Changes.

  append(from: UserId, body: Body, at: Timestamp): Event {
    const { type, ...fields } = body;
    const event = { type, conversation: this.id, seq: this.head + 1, from, at, ...fields } as Event;
    this.events.push(event);
    this.#fold(event);
    return event;
  }

  enter(user: UserId, role: Role): void {
    const seq = this.isRoom ? this.head + 1 : 0;
    this.memberships.set(user, { role, since: seq, read: seq, received: seq });
  }

  #fold(event: Event): void {
    if (event.type === "message") {
      this.#messages.set(event.seq, structuredClone(event));
    } else if (event.type === "edit") {
      if (event.deleted) return;
      const { text: _text, data: _data, ...message } = this.message(event.target);
      const { text, data, seq, at } = event;
      const content = { ...(text !== undefined && { text }), ...(data !== undefined && { data }) };
      this.#messages.set(event.target, { ...message, ...content, edited: { seq, at } });
    } else if (event.type === "delete") {
      this.#erase(event.target);
    } else if (event.type === "react") {
      const { target, emoji, on, seq, from } = event;
      this.#reactions.set(JSON.stringify([target, emoji, from]), { seq, on });
      this.#messages.set(target, withReaction(this.message(target), emoji, from, on));
    } else if (event.type === "rename") {
      this.title = event.title;
    }
  }

  /** Erases the content of a deleted message and of its edits from the raw log. */
  #erase(target: Seq): void {
    const { type, conversation, seq, from, at, key } = this.message(target);
    const kept = { type, conversation, seq, from, at, ...(key !== undefined && { key }), deleted: true };
    this.#messages.set(target, kept);
    this.events.forEach((event, n) => {
      if (event.type === "message" && event.seq === target) this.events[n] = kept;
      else if (event.type === "edit" && event.target === target) {
        const { text: _text, data: _data, ...rest } = event;
        this.events[n] = { ...rest, deleted: true };
      }
    });
  }

  /** Removes all events after `head`, like a server that was restored from an older backup. */
  truncate(head: Seq): void {
    const events = this.events.splice(0).slice(0, head);
    this.#messages.clear();
    this.#reactions.clear();
    for (const event of events) {
      this.events.push(event);
      this.#fold(event);
    }
    for (const membership of this.memberships.values()) {
      membership.read = Math.min(membership.read, head);
      membership.received = Math.min(membership.received, head);
    }
  }

  // ---- Pages.

  page(user: UserId, after: Seq, limit: number): LogBody {
    const head = this.visible(user);
    if (after > head) throw new Refusal("bad_cursor", "the log ends before this cursor");
    const end = Math.min(head, after + limit);
    return { conversation: this.id, events: this.events.slice(after, end), head, more: end < head };
  }

  history(user: UserId, limit: number, before = Infinity): HistoryBody {
    const head = this.visible(user);
    const messages = this.#upto(Math.min(head, before - 1));
    return { conversation: this.id, messages: messages.slice(-limit), head, more: messages.length > limit };
  }

  /** A page around an event: half of its messages are from before the event, the others from the event on. */
  around(user: UserId, limit: number, seq: Seq): HistoryBody & { more_after: boolean } {
    const head = this.visible(user);
    if (seq > head) throw new Refusal("bad_cursor", "around: the log ends before this event", "around");
    const all = this.#upto(head);
    const before = all.filter((message) => message.seq < seq);
    const from = all.slice(before.length);
    const half = Math.floor(limit / 2);
    const page = [...before.slice(before.length - Math.min(half, before.length)), ...from.slice(0, limit - half)];
    const more = before.length > half;
    return { conversation: this.id, messages: page, head, more, more_after: from.length > limit - half };
  }

  #upto(head: Seq): Message[] {
    return this.messages.filter(({ seq }) => seq <= head);
  }

  unread(user: UserId): number {
    const { read } = this.member(user);
    return this.messages.filter(({ seq, from }) => seq > read && from !== user).length;
  }

  summary(user: UserId): Summary {
    const { role, read, received } = this.member(user);
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
      unread: this.unread(user),
      ...(last && { last }),
    };
  }

  listed(): Member[] {
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
