// Which part of the list is drawn. It moves both ways over what is loaded and never grows beyond `MOST`, so that a
// conversation that was scrolled for an hour is as light as a new one.

import type { ChatMessage } from "@switchboard/client";

type List = readonly Pick<ChatMessage, "id">[];

export const MOST = 240;
const STEP = 60;

export class Span {
  /** Ids, as positions change with every page that is put in front. Nothing means: the end of the list. */
  #first: string | undefined;
  #last: string | undefined;

  /** From and to, without the latter. */
  of(list: List): [from: number, to: number] {
    const last = this.#last === undefined ? -1 : indexOf(list, this.#last);
    if (last < 0) this.#last = undefined;
    const to = last < 0 ? list.length : last + 1;
    let from = this.#first === undefined ? -1 : indexOf(list, this.#first);
    if (from < 0 || from >= to) from = Math.max(0, to - STEP);
    return [from, to];
  }

  /** Whether the end of the list is in it, and new messages with it. */
  get atEnd(): boolean {
    return this.#last === undefined;
  }

  /** Holds the bound as messages arrive: at the top if the reader is at the bottom, and the other way round. */
  trim(list: List, readerAtBottom: boolean): void {
    const [from, to] = this.of(list);
    // Below the bound, what was drawn once stays.
    this.#first = list[from]?.id;
    if (to - from <= MOST) return;
    if (readerAtBottom) this.#set(list, to - MOST, to);
    else this.#set(list, from, from + MOST);
  }

  /** A step up. `false` where the list begins. */
  older(list: List): boolean {
    const [from, to] = this.of(list);
    if (from === 0) return false;
    const start = Math.max(0, from - STEP);
    this.#set(list, start, Math.min(to, start + MOST));
    return true;
  }

  /** A step down. `false` where the list ends. */
  newer(list: List): boolean {
    const [from, to] = this.of(list);
    if (to === list.length) {
      this.#last = undefined;
      return false;
    }
    const end = Math.min(list.length, to + STEP);
    this.#set(list, Math.max(from, end - MOST), end);
    return true;
  }

  /** To the end, unless that is in it. */
  latest(): void {
    if (this.#last === undefined) return;
    this.#first = this.#last = undefined;
  }

  /** Moves so that this one is in the middle. */
  around(list: List, id: string): boolean {
    const at = indexOf(list, id);
    if (at < 0) return false;
    const [from, to] = this.of(list);
    if (at >= from && at < to) return true;
    this.#set(list, Math.max(0, at - STEP), Math.min(list.length, at + STEP));
    return true;
  }

  #set(list: List, from: number, to: number): void {
    this.#first = list[from]?.id;
    this.#last = to >= list.length ? undefined : list[to - 1]?.id;
  }
}

/** From the end, where what is looked for most often is. */
function indexOf(list: List, id: string): number {
  for (let at = list.length - 1; at >= 0; at--) if (list[at]!.id === id) return at;
  return -1;
}
