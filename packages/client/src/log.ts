// A conversation's place in its log: every event once, in order, without a hole.

import type { Clock, Timer } from "./clock.js";
import { ChatError } from "./error.js";
import type { Event, LogBody, Seq } from "./protocol.js";

/** How an event came: live or replayed on the connection, with a page, or as the answer to one's own command. */
export type Source = "live" | "sync" | "own";

/** Milliseconds to wait for what an event has overtaken, before it is asked for: an `ok` may run ahead of events. */
const OVERTAKEN = 300;
/** Events of a page. */
const PAGE = 200;
/** Pages without progress after which the log is given up. */
const FRUITLESS = 3;

type State =
  /** A page of history, or a summary, is to say where the log begins for us. */
  | { is: "unplaced" }
  /** Every event up to `cursor` was applied, and nothing is known to be missing. */
  | { is: "following"; cursor: Seq }
  /** Something is missing, and may be on its way. */
  | { is: "waiting"; cursor: Seq; timer: Timer }
  /** What is missing is being paged. */
  | { is: "filling"; cursor: Seq }
  /** The chat was closed: no event is applied any more. */
  | { is: "ended"; cursor: Seq | undefined };

export interface LogOwner {
  readonly clock: Clock;
  /** An event in its turn, once. */
  apply(event: Event, source: Source): void;
  /** An event that a summary has in it already came all the same: nobody has heard of it. */
  onOvertaken(event: Event): void;
  /** An event came, and nobody has said where the log begins. */
  onUnplaced(): void;
  /** A page of the log after this event. */
  readLog(after: Seq, limit: number): Promise<LogBody>;
  /** The log cannot be followed from the cursor on. */
  onRefused(error: ChatError): void;
  report(error: unknown): void;
}

export class Log {
  #owner: LogOwner;
  #state: State = { is: "unplaced" };
  /** Events that came before those in front of them. */
  #ahead = new Map<Seq, { event: Event; source: Source }>();
  /** Events up to here are known from a summary, and may come live all the same: the page overtook them. */
  #summarised: Seq = 0;
  #fruitless = 0;

  constructor(owner: LogOwner) {
    this.#owner = owner;
  }

  /** Every event up to here was applied; `undefined` while that is to be found out. */
  get cursor(): Seq | undefined {
    return this.#state.is === "unplaced" ? undefined : this.#state.cursor;
  }

  get filling(): boolean {
    return this.#state.is === "filling";
  }

  /**
   * Everything up to `head` is known: from a page of history, or with `summary` from one of the inbox. What has come
   * live in the meantime is new all the same.
   */
  place(head: Seq, summary = false): void {
    if (this.#state.is !== "unplaced") return;
    let first = Infinity;
    for (const [seq, { source }] of this.#ahead) if (source !== "own") first = Math.min(first, seq);
    this.#state = { is: "following", cursor: Math.min(head, first - 1) };
    if (summary) this.#summarised = this.#state.cursor;
    this.#drain();
    if ((this.cursor as Seq) < head) void this.fill();
    else this.#wait();
  }

  /** Goes on after this event: nothing behind it was heard. */
  begin(cursor: Seq): void {
    this.#enter({ is: "following", cursor });
    this.#drain();
    this.#wait();
  }

  /** Events that wait for what is in front of them. */
  get waiting(): Event[] {
    return [...this.#ahead.values()].map(({ event }) => event);
  }

  receive(event: Event, source: Source): void {
    const { seq } = event;
    if (this.#state.is === "ended") return;
    if (this.#state.is === "unplaced") {
      this.#ahead.set(seq, { event, source });
      return this.#owner.onUnplaced();
    }
    if (seq > this.#state.cursor) {
      if (!this.#ahead.has(seq)) this.#ahead.set(seq, { event, source });
      this.#drain();
    } else if (seq <= this.#summarised && source === "live") {
      this.#attempt(() => this.#owner.onOvertaken(event));
    }
    this.#wait();
  }

  /** Pages what is missing. */
  async fill(): Promise<void> {
    if (this.#state.is !== "following" && this.#state.is !== "waiting") return;
    const state = { is: "filling" as const, cursor: this.#state.cursor };
    const replaced = () => this.#state !== (state as State);
    this.#enter(state);
    try {
      for (let more = true; more;) {
        const page = await this.#owner.readLog(state.cursor, PAGE);
        if (replaced()) return;
        const before = state.cursor;
        for (const event of page.events) this.receive(event, "sync");
        if (replaced()) return;
        this.#fruitless = state.cursor > before ? 0 : this.#fruitless + 1;
        more = page.more && page.events.length > 0 && this.#fruitless < FRUITLESS;
      }
      this.#enter({ is: "following", cursor: state.cursor });
    } catch (error) {
      if (replaced()) return;
      this.#enter({ is: "following", cursor: state.cursor });
      if (error instanceof ChatError && !error.retryable && error.code !== "closed") this.#owner.onRefused(error);
      else if (!(error instanceof ChatError)) this.#owner.report(error);
      return;
    }
    if (this.#ahead.size && this.#fruitless >= FRUITLESS) {
      // The server has no such events between: it is another log.
      this.#fruitless = 0;
      return this.#owner.onRefused(
        new ChatError({ code: "bad_cursor", message: "the log has a hole", retryable: false }),
      );
    }
    this.#wait();
  }

  /** The connection is lost. With `keep` the next one goes on from the cursor. */
  lost(keep: boolean): void {
    this.#summarised = 0;
    if (this.#state.is === "waiting") this.#enter({ is: "following", cursor: this.#state.cursor });
    if (!keep) this.reset();
  }

  /** Nothing of it is known any more: where it begins is to be found out, and no event of before counts. */
  reset(): void {
    this.#enter({ is: "unplaced" });
    this.#ahead.clear();
    this.#summarised = 0;
  }

  /** The chat was closed, for good. */
  end(): void {
    this.#enter({ is: "ended", cursor: this.cursor });
    this.#ahead.clear();
  }

  #enter(state: State): void {
    if (this.#state.is === "ended") return;
    if (this.#state.is === "waiting") this.#owner.clock.clearTimeout(this.#state.timer);
    this.#state = state;
  }

  /** Something came before what is in front of it: that is awaited for a moment, then paged. */
  #wait(): void {
    if (!this.#ahead.size) {
      if (this.#state.is === "waiting") this.#enter({ is: "following", cursor: this.#state.cursor });
    } else if (this.#state.is === "following") {
      const timer = this.#owner.clock.setTimeout(() => void this.fill(), OVERTAKEN);
      this.#enter({ is: "waiting", cursor: this.#state.cursor, timer });
    }
  }

  #drain(): void {
    const state = this.#state;
    if (state.is === "unplaced" || state.is === "ended") return;
    for (const seq of this.#ahead.keys()) if (seq <= state.cursor) this.#ahead.delete(seq);
    for (let next; this.#state === state && (next = this.#ahead.get(state.cursor + 1));) {
      const { event, source } = next;
      this.#ahead.delete(event.seq);
      state.cursor = event.seq;
      this.#attempt(() => this.#owner.apply(event, source));
    }
  }

  /** A mistake in one event's application stops no other. */
  #attempt(act: () => void): void {
    try {
      act();
    } catch (error) {
      this.#owner.report(error);
    }
  }
}
