// The messages of a conversation, oldest first, built from pages of history and events. Events must arrive once and in
// order; the `head` of a page shows which of them the page already includes.

import { compact } from "./compact.js";
import type { Event, HistoryBody, Message as Folded, Seq } from "./protocol.js";
import type { AnyData, ChatEvent, ChatMessage } from "./types.js";

/** A message that the server has stored. */
export type StoredMessage = ChatMessage & { seq: Seq };

/** An event that changes a message. */
export type Amendment = Extract<Event, { type: "edit" | "delete" | "react" }>;

/** A message, and the last event that was applied to it. */
interface MessageRow {
  message: StoredMessage;
  appliedUpto: Seq;
}

/** The id of a message: the same before it has a seq and after, if it has a key. */
export const messageIdOf = (from: string, key: string | undefined, seq?: Seq): string =>
  key ? `${from}/${key}` : `#${seq}`;

/** A message of the protocol in the form that an app sees. */
export function messageFromWire(wire: Folded): StoredMessage {
  const { type, conversation, reply_to: replyTo, data, reactions = {}, ...rest } = wire;
  const id = messageIdOf(rest.from, rest.key, rest.seq);
  const [kind, state] = ["message" as const, "sent" as const];
  return compact({ kind, id, ...rest, data: data as AnyData | undefined, replyTo, reactions, state });
}

/** An event of the protocol in the form that an app sees. */
export function eventFromWire(event: Event): ChatEvent {
  if (event.type !== "message") return event as ChatEvent;
  const { reply_to: replyTo, ...rest } = event;
  return compact({ ...rest, replyTo }) as ChatEvent;
}

export const isAmendment = (event: Event): event is Amendment =>
  event.type === "edit" || event.type === "delete" || event.type === "react";

/** The message after an edit, a deletion or a reaction. */
export function applyAmendment(message: StoredMessage, event: Amendment): StoredMessage {
  // A deleted message has no reactions, and its edits have no content, so they change nothing.
  if (message.deleted) return message;
  switch (event.type) {
    case "delete": {
      const { kind, id, seq, from, at, key, state } = message;
      return compact({ kind, id, seq, from, at, key, deleted: true, reactions: {}, state });
    }
    case "react":
      return { ...message, reactions: applyReaction(message.reactions, event) };
    case "edit": {
      if (event.deleted) return message;
      const { text, data, seq, at } = event;
      return compact({ ...message, text, data: data as AnyData | undefined, edited: { seq, at } });
    }
  }
}

// This uses a `Map`, because a reaction's emoji may be any text, including names of an object's own properties.
function applyReaction(
  reactions: ChatMessage["reactions"],
  event: Extract<Event, { type: "react" }>,
): ChatMessage["reactions"] {
  const all = new Map(Object.entries(reactions));
  // Reactions are stored without U+FE0F, except by older servers.
  const emoji = all.has(event.emoji) ? event.emoji : event.emoji.replaceAll("\u{fe0f}", "");
  const users = all.get(emoji) ?? [];
  if (event.on) {
    if (!users.includes(event.from)) all.set(emoji, [...users, event.from]);
  } else {
    const others = users.filter((user) => user !== event.from);
    if (others.length) all.set(emoji, others);
    else all.delete(emoji);
  }
  // Sorted like the reactions in a page of history.
  return Object.fromEntries([...all].sort(([a], [b]) => (a < b ? -1 : 1)));
}

export class Timeline {
  #rows: MessageRow[] = [];
  #messageIds = new Set<string>();
  /** The list includes all events up to this one. */
  #headSeq: Seq;
  /** Whether the server has earlier messages. */
  hasOlder = false;
  /** The first message that the pages had, also one whose content the server withholds. */
  #firstSeq = Infinity;

  constructor(page?: HistoryBody) {
    this.#headSeq = page?.head ?? 0;
    if (page) this.prepend(page, []);
  }

  get messages(): StoredMessage[] {
    return this.#rows.map((row) => row.message);
  }

  /** The last event that the list includes. */
  get head(): Seq {
    return this.#headSeq;
  }

  /** The first message's number. */
  get oldestSeq(): Seq | undefined {
    const first = Math.min(this.#firstSeq, this.#rows[0]?.message.seq ?? Infinity);
    return first === Infinity ? undefined : first;
  }

  get length(): number {
    return this.#rows.length;
  }

  /** Adds a page of earlier messages, and applies to it the events that arrived since the page was requested. */
  prepend(page: HistoryBody, meanwhile: Event[]): void {
    const before = this.oldestSeq ?? Infinity;
    const rows = page.messages.filter((wire) => wire.seq < before);
    this.#rows.unshift(...rows.map((wire) => this.#makeRow(wire, page.head)));
    this.#firstSeq = Math.min(this.#firstSeq, page.withheld?.[0]?.seq ?? Infinity);
    this.hasOlder = page.more;
    for (const event of meanwhile) if (isAmendment(event)) this.#amendMessage(event);
  }

  /** Removes the oldest messages until `length` are left. */
  trimTo(length: number): void {
    const excess = this.#rows.length - length;
    if (excess <= 0) return;
    for (const { message } of this.#rows.splice(0, excess)) this.#messageIds.delete(message.id);
    this.#firstSeq = Infinity;
    this.hasOlder = true;
  }

  hasMessage(id: string): boolean {
    return this.#messageIds.has(id);
  }

  findMessage(seq: Seq): StoredMessage | undefined {
    return this.#rows[this.#indexOf(seq)]?.message;
  }

  /** How many messages of others there are after this event; `undefined` if the list does not reach back to it. */
  countUnread(after: Seq, me: string): number | undefined {
    if (this.hasOlder && (this.oldestSeq ?? Infinity) > after + 1) return undefined;
    return this.#rows.filter(({ message }) => message.seq > after && message.from !== me).length;
  }

  applyEvent(event: Event): void {
    if (event.seq <= this.#headSeq) return;
    this.#headSeq = event.seq;
    if (event.type === "message") this.#rows.push(this.#makeRow(event, event.seq));
    else if (isAmendment(event)) this.#amendMessage(event);
  }

  #makeRow(wire: Folded, upto: Seq): MessageRow {
    const message = messageFromWire(wire);
    this.#messageIds.add(message.id);
    return { message, appliedUpto: upto };
  }

  #indexOf(seq: Seq): number {
    let low = 0;
    let high = this.#rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#rows[middle]!.message.seq < seq) low = middle + 1;
      else high = middle;
    }
    return this.#rows[low]?.message.seq === seq ? low : -1;
  }

  #amendMessage(event: Amendment): void {
    const row = this.#rows[this.#indexOf(event.target)];
    if (!row || row.appliedUpto >= event.seq) return;
    row.appliedUpto = event.seq;
    row.message = applyAmendment(row.message, event);
  }
}
