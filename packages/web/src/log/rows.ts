// Turns messages and notices into rows, with lines for new days and for unread messages, and groups messages of one author.

import type { ChatMessage, Notice } from "@switchboard/client";
import { dayOf } from "../i18n/day.js";

/** Longest time between two messages of one author that are grouped. */
const GROUP_GAP_MS = 5 * 60_000;

export type Item = ChatMessage | Notice;

export type Row =
  | { kind: "day"; key: string; at: string }
  | { kind: "unread"; key: "unread" }
  /** What happened in the room; notices of one kind in a row are one line. */
  | { kind: "event"; key: string; notices: Notice[] }
  | {
      kind: "message";
      key: string;
      message: ChatMessage;
      /** Whether the message is the first of its group, which shows the author. */
      first: boolean;
      /** Whether the message is the last of its group, which shows the author's face. */
      last: boolean;
    };

type MessageRow = Extract<Row, { kind: "message" }>;

export class Rows {
  #before = new Map<string, MessageRow>();

  /**
   * @param previous the item before the first one, if it is not drawn
   * @param mark the seq of the last read message; the unread line is before the first later message of another user
   */
  build(items: readonly Item[], previous: Item | undefined, mark: number | undefined, me: string): Row[] {
    const rows: Row[] = [];
    const now = new Map<string, MessageRow>();
    const markedBefore = mark === undefined || (previous !== undefined && isUnread(previous, mark, me));
    const firstUnreadItem = markedBefore ? undefined : items.find((item) => isUnread(item, mark!, me));
    let last = previous;
    for (const [index, item] of items.entries()) {
      if (isNewDay(last, item)) rows.push({ kind: "day", key: `day ${item.id}`, at: item.at });
      if (item === firstUnreadItem) rows.push({ kind: "unread", key: "unread" });
      if (item.kind === "notice") {
        const row = rows.at(-1);
        if (row?.kind === "event" && isSameEvent(row.notices[0]!, item)) row.notices.push(item);
        else rows.push({ kind: "event", key: item.id, notices: [item] });
      } else {
        const next = items[index + 1];
        const first = item === firstUnreadItem || !isTogether(last, item);
        const row = this.#row(item, first, next === undefined || next === firstUnreadItem || !isTogether(item, next));
        now.set(row.key, row);
        rows.push(row);
      }
      last = item;
    }
    this.#before = now;
    return rows;
  }

  /** Makes a row, or returns that of the last call if nothing has changed, so that Svelte does not draw the row again. */
  #row(message: ChatMessage, first: boolean, last: boolean): MessageRow {
    const before = this.#before.get(message.id);
    if (before?.message === message && before.first === first && before.last === last) return before;
    return { kind: "message", key: message.id, message, first, last };
  }
}

/** The first message of another user after the last read one. */
export function firstUnread(items: readonly Item[], mark: number | undefined, me: string): Item | undefined {
  return mark === undefined ? undefined : items.find((item) => isUnread(item, mark, me));
}

function isUnread(item: Item, mark: number, me: string): boolean {
  return item.kind === "message" && item.seq !== undefined && item.seq > mark && item.from !== me;
}

function isNewDay(last: Item | undefined, item: Item): boolean {
  return !last || dayOf(last.at) !== dayOf(item.at);
}

/** Whether two notices are of one kind, so that one line names both users. A line with a title names only one change. */
function isSameEvent(one: Notice, other: Notice): boolean {
  if (one.type !== other.type) return false;
  if (one.type === "join" || one.type === "leave" || one.type === "withheld") return true;
  return (one.type === "invite" || one.type === "remove") && one.from === other.from;
}

function isTogether(last: Item | undefined, item: Item): boolean {
  return (
    last?.kind === "message" &&
    item.kind === "message" &&
    !isNewDay(last, item) &&
    last.from === item.from &&
    item.replyTo === undefined &&
    Date.parse(item.at) - Date.parse(last.at) <= GROUP_GAP_MS
  );
}
