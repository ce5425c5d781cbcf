// The messages of a conversation, oldest first, as pages of history and events make them. Events must come in
// order and once; a page says with `head` which of them it has in it already.

import { compact } from "./compact.js";
import type { Event, HistoryBody, Message as Folded, Seq } from "./protocol.js";
import type { AnyData, ChatEvent, ChatMessage } from "./types.js";

/** A message that the server has stored. */
export type StoredMessage = ChatMessage & { seq: Seq };

/** An event that changes a message. */
export type Amendment = Extract<Event, { type: "edit" | "delete" | "react" }>;

/** A message, and the last event that is folded into it. */
interface Row {
  message: StoredMessage;
  upto: Seq;
}

/** A message is the same one whether it is known by its key only, or by its number as well. */
export const idOf = (from: string, key: string | undefined, seq?: Seq): string => (key ? `${from}/${key}` : `#${seq}`);

/** A message of the wire, as the app sees it. */
export function fromWire(wire: Folded): StoredMessage {
  const { type, conversation, reply_to: replyTo, data, reactions = {}, ...rest } = wire;
  const id = idOf(rest.from, rest.key, rest.seq);
  const [kind, state] = ["message" as const, "sent" as const];
  return compact({ kind, id, ...rest, data: data as AnyData | undefined, replyTo, reactions, state });
}

/** An event of the wire, as the app sees it. */
export function eventFromWire(event: Event): ChatEvent {
  if (event.type !== "message") return event as ChatEvent;
  const { reply_to: replyTo, ...rest } = event;
  return compact({ ...rest, replyTo }) as ChatEvent;
}

export const isAmendment = (event: Event): event is Amendment =>
  event.type === "edit" || event.type === "delete" || event.type === "react";

/** The message after an event about it. */
export function amended(message: StoredMessage, event: Amendment): StoredMessage {
  // A deleted message has no reactions, and its edits come without content: they say nothing.
  if (message.deleted) return message;
  switch (event.type) {
    case "delete": {
      const { kind, id, seq, from, at, key, state } = message;
      return compact({ kind, id, seq, from, at, key, deleted: true, reactions: {}, state });
    }
    case "react":
      return { ...message, reactions: reacted(message.reactions, event) };
    case "edit": {
      if (event.deleted) return message;
      const { text, data, seq, at } = event;
      return compact({ ...message, text, data: data as AnyData | undefined, edited: { seq, at } });
    }
  }
}

// A reaction may have any name, those of every object's properties as well: a `Map` has none of its own.
function reacted(
  reactions: ChatMessage["reactions"],
  event: Extract<Event, { type: "react" }>,
): ChatMessage["reactions"] {
  const all = new Map(Object.entries(reactions));
  // Stored without U+FE0F, but for what an older server has.
  const emoji = all.has(event.emoji) ? event.emoji : event.emoji.replaceAll("\u{fe0f}", "");
  const users = all.get(emoji) ?? [];
  if (event.on) {
    if (!users.includes(event.from)) all.set(emoji, [...users, event.from]);
  } else {
    const others = users.filter((user) => user !== event.from);
    if (others.length) all.set(emoji, others);
    else all.delete(emoji);
  }
  // In the order of a page of history.
  return Object.fromEntries([...all].sort(([a], [b]) => (a < b ? -1 : 1)));
}

export class Timeline {
  #rows: Row[] = [];
  #ids = new Set<string>();
  /** Events up to here are in the list. */
  #upto: Seq;
  /** Whether the server has earlier messages. */
  hasOlder = false;

  constructor(page?: HistoryBody) {
    this.#upto = page?.head ?? 0;
    if (page) this.prepend(page, []);
  }

  get messages(): StoredMessage[] {
    return this.#rows.map((row) => row.message);
  }

  /** The last event that is in the list. */
  get head(): Seq {
    return this.#upto;
  }

  /** The first message's number. */
  get oldest(): Seq | undefined {
    return this.#rows[0]?.message.seq;
  }

  get length(): number {
    return this.#rows.length;
  }

  /** Puts a page of earlier messages in front, and into it the events that came while it was under way. */
  prepend(page: HistoryBody, meanwhile: Event[]): void {
    const before = this.oldest ?? Infinity;
    const rows = page.messages.filter((wire) => wire.seq < before);
    this.#rows.unshift(...rows.map((wire) => this.#row(wire, page.head)));
    this.hasOlder = page.more;
    for (const event of meanwhile) if (isAmendment(event)) this.#amend(event);
  }

  /** Forgets the oldest messages, until so many are left. */
  trim(length: number): void {
    const excess = this.#rows.length - length;
    if (excess <= 0) return;
    for (const { message } of this.#rows.splice(0, excess)) this.#ids.delete(message.id);
    this.hasOlder = true;
  }

  has(id: string): boolean {
    return this.#ids.has(id);
  }

  find(seq: Seq): StoredMessage | undefined {
    return this.#rows[this.#index(seq)]?.message;
  }

  /** How many messages of others there are after this event; `undefined` if the list does not reach back to it. */
  unread(after: Seq, me: string): number | undefined {
    if (this.hasOlder && (this.oldest ?? Infinity) > after + 1) return undefined;
    return this.#rows.filter(({ message }) => message.seq > after && message.from !== me).length;
  }

  apply(event: Event): void {
    if (event.seq <= this.#upto) return;
    this.#upto = event.seq;
    if (event.type === "message") this.#rows.push(this.#row(event, event.seq));
    else if (isAmendment(event)) this.#amend(event);
  }

  #row(wire: Folded, upto: Seq): Row {
    const message = fromWire(wire);
    this.#ids.add(message.id);
    return { message, upto };
  }

  #index(seq: Seq): number {
    let low = 0;
    let high = this.#rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#rows[middle]!.message.seq < seq) low = middle + 1;
      else high = middle;
    }
    return this.#rows[low]?.message.seq === seq ? low : -1;
  }

  #amend(event: Amendment): void {
    const row = this.#rows[this.#index(event.target)];
    if (!row || row.upto >= event.seq) return;
    row.upto = event.seq;
    row.message = amended(row.message, event);
  }
}
