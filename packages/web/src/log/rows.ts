// Turns messages into rows, with lines for new days and for unread messages, and groups messages of one author.

import type { ChatMessage } from "@switchboard/client";
import { dayOf } from "../i18n/day.js";

/** Longest time between two messages of one author that are grouped. */
const GROUP_GAP_MS = 5 * 60_000;

export type Row =
  | { kind: "day"; key: string; at: string }
  | { kind: "unread"; key: "unread" }
  | {
      kind: "message";
      key: string;
      message: ChatMessage;
      /** Whether the message is the first of its group, which shows author and time. */
      first: boolean;
    };

type MessageRow = Extract<Row, { kind: "message" }>;

export class Rows {
  #before = new Map<string, MessageRow>();

  /**
   * @param previous the message before the first one, if it is not drawn
   * @param mark the seq of the last read message; the unread line is before the first later message of another user
   */
  build(
    messages: readonly ChatMessage[],
    previous: ChatMessage | undefined,
    mark: number | undefined,
    me: string,
  ): Row[] {
    const rows: Row[] = [];
    const now = new Map<string, MessageRow>();
    let marked = mark === undefined || (previous !== undefined && isUnread(previous, mark, me));
    let last = previous;
    for (const message of messages) {
      const newDay = !last || dayOf(last.at) !== dayOf(message.at);
      const unread = !marked && isUnread(message, mark!, me);
      if (newDay) rows.push({ kind: "day", key: `day ${message.id}`, at: message.at });
      if (unread) rows.push({ kind: "unread", key: "unread" });
      marked ||= unread;
      const first = newDay || unread || !last || !together(last, message);
      const row = this.#row(message, first);
      now.set(row.key, row);
      rows.push(row);
      last = message;
    }
    this.#before = now;
    return rows;
  }

  /** Makes a row, or returns that of the last call if nothing has changed, so that Svelte does not draw the row again. */
  #row(message: ChatMessage, first: boolean): MessageRow {
    const before = this.#before.get(message.id);
    if (before?.message === message && before.first === first) return before;
    return { kind: "message", key: message.id, message, first };
  }
}

/** The first message of another user after the last read one. */
export function firstUnread(
  messages: readonly ChatMessage[],
  mark: number | undefined,
  me: string,
): ChatMessage | undefined {
  return mark === undefined ? undefined : messages.find((message) => isUnread(message, mark, me));
}

function isUnread(message: ChatMessage, mark: number, me: string): boolean {
  return message.seq !== undefined && message.seq > mark && message.from !== me;
}

function together(last: ChatMessage, message: ChatMessage): boolean {
  return (
    last.from === message.from &&
    message.replyTo === undefined &&
    Date.parse(message.at) - Date.parse(last.at) <= GROUP_GAP_MS
  );
}
