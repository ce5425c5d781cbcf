// The drawn part of the list. It moves in both directions over the loaded messages and never exceeds `MAX_ROWS`, so that
// the page stays fast however far the user has scrolled.

import type { ChatMessage } from "@switchboard/client";

type List = readonly Pick<ChatMessage, "id">[];

export const MAX_ROWS = 240;
const MESSAGES_PER_STEP = 60;

export class Span {
  /** Ids of the first and the last drawn message; indices would change with each earlier page. `undefined`: the list's end. */
  #first: string | undefined;
  #last: string | undefined;

  /** The drawn part as indices, `to` exclusive. */
  of(list: List): [from: number, to: number] {
    const last = this.#last === undefined ? -1 : indexOf(list, this.#last);
    if (last < 0) this.#last = undefined;
    const to = last < 0 ? list.length : last + 1;
    let from = this.#first === undefined ? -1 : indexOf(list, this.#first);
    if (from < 0 || from >= to) from = Math.max(0, to - MESSAGES_PER_STEP);
    return [from, to];
  }

  /** Whether the drawn part includes the end of the list, and so new messages. */
  get atEnd(): boolean {
    return this.#last === undefined;
  }

  /** Enforces `MAX_ROWS` as messages arrive: removes rows at the top if the reader is at the bottom, and vice versa. */
  trim(list: List, readerAtBottom: boolean): void {
    const [from, to] = this.of(list);
    // Fixes the first drawn row, so that no drawn row is removed while there are at most `MAX_ROWS`.
    this.#first = list[from]?.id;
    if (to - from <= MAX_ROWS) return;
    if (readerAtBottom) this.#set(list, to - MAX_ROWS, to);
    else this.#set(list, from, from + MAX_ROWS);
  }

  /** Moves the drawn part one step up. Returns false at the beginning of the list. */
  older(list: List): boolean {
    const [from, to] = this.of(list);
    if (from === 0) return false;
    const start = Math.max(0, from - MESSAGES_PER_STEP);
    this.#set(list, start, Math.min(to, start + MAX_ROWS));
    return true;
  }

  /** Moves the drawn part one step down. Returns false at the end of the list. */
  newer(list: List): boolean {
    const [from, to] = this.of(list);
    if (to === list.length) {
      this.#last = undefined;
      return false;
    }
    const end = Math.min(list.length, to + MESSAGES_PER_STEP);
    this.#set(list, Math.max(from, end - MAX_ROWS), end);
    return true;
  }

  /** Moves the drawn part to the end of the list, unless that is drawn already. */
  latest(): void {
    if (this.#last === undefined) return;
    this.#first = this.#last = undefined;
  }

  /** Moves the drawn part so that the message is in its middle, unless the message is drawn already. */
  around(list: List, id: string): boolean {
    const at = indexOf(list, id);
    if (at < 0) return false;
    const [from, to] = this.of(list);
    if (at >= from && at < to) return true;
    this.#set(list, Math.max(0, at - MESSAGES_PER_STEP), Math.min(list.length, at + MESSAGES_PER_STEP));
    return true;
  }

  #set(list: List, from: number, to: number): void {
    this.#first = list[from]?.id;
    this.#last = to >= list.length ? undefined : list[to - 1]?.id;
  }
}

/** The index of a message. Searches from the end, because most searched messages are there. */
function indexOf(list: List, id: string): number {
  for (let at = list.length - 1; at >= 0; at--) if (list[at]!.id === id) return at;
  return -1;
}
