// The cursor in a conversation's log: applies every event once, in order, without a gap.

import type { Clock, Timer } from "./clock.js";
import { ChatError } from "./error.js";
import type { Event, LogBody, Seq } from "./protocol.js";

/** How an event arrived: pushed or replayed on the connection, in a page, or in the answer to the user's own command. */
export type Source = "live" | "sync" | "own";

/** Milliseconds to wait for missing events before they are requested, because an `ok` may arrive before earlier events. */
const MISSING_EVENT_WAIT = 300;
/** How many events one request for a page of the log asks for. */
const PAGE = 200;
/** If this many pages in a row do not have the missing event, the server has another log, such as that of a restored backup. */
const MAX_PAGES_WITHOUT_PROGRESS = 3;

type State =
  /** The cursor is unknown until a page of history or a summary has arrived. */
  | { is: "unplaced" }
  /** Every event up to `cursor` was applied, and nothing is known to be missing. */
  | { is: "following"; cursor: Seq }
  /** An event is missing, and may still arrive. */
  | { is: "waiting"; cursor: Seq; timer: Timer }
  /** The missing events are being loaded, page by page. */
  | { is: "filling"; cursor: Seq }
  /** The chat was closed: no event is applied any more. */
  | { is: "ended"; cursor: Seq | undefined };

export interface LogOwner {
  readonly clock: Clock;
  /** Applies an event: each once, in order. */
  apply(event: Event, source: Source): void;
  /** Handles a pushed event that a summary already includes; listeners have not received it yet. */
  onOvertaken(event: Event): void;
  /** Handles that an event arrived while the cursor is unknown. */
  onUnplaced(): void;
  /** Requests a page of the log after this event. */
  readLog(after: Seq, limit: number): Promise<LogBody>;
  /** Handles that the server refuses to send the events after the cursor. */
  onRefused(error: ChatError): void;
  report(error: unknown): void;
}

export class Log {
  #owner: LogOwner;
  #state: State = { is: "unplaced" };
  /** Events that cannot be applied yet, because an earlier event has not arrived; by seq. */
  #ahead = new Map<Seq, { event: Event; source: Source }>();
  /** The last event that a summary includes. The server may still push events up to this one, if the summary arrived first. */
  #summarised: Seq = 0;
  #fruitless = 0;

  constructor(owner: LogOwner) {
    this.#owner = owner;
  }

  /** The last applied event; all events before it were applied, too. `undefined` while the cursor is unknown. */
  get cursor(): Seq | undefined {
    return this.#state.is === "unplaced" ? undefined : this.#state.cursor;
  }

  get filling(): boolean {
    return this.#state.is === "filling";
  }

  /**
   * Sets the cursor to `head`, because a page of history, or with `summary` a page of the inbox, includes the events up to
   * there. Events that were pushed in the meantime are still applied as new ones.
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

  /** Sets the cursor to an event that was already handled, so that the events after it are applied. */
  begin(cursor: Seq): void {
    this.#enter({ is: "following", cursor });
    this.#drain();
    this.#wait();
  }

  /** Events that cannot be applied yet, because an earlier event has not arrived. */
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

  /** Loads the missing events, page by page. */
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
        more = page.more && page.events.length > 0 && this.#fruitless < MAX_PAGES_WITHOUT_PROGRESS;
      }
      this.#enter({ is: "following", cursor: state.cursor });
    } catch (error) {
      if (replaced()) return;
      this.#enter({ is: "following", cursor: state.cursor });
      if (error instanceof ChatError && !error.retryable && error.code !== "closed") this.#owner.onRefused(error);
      else if (!(error instanceof ChatError)) this.#owner.report(error);
      return;
    }
    if (this.#ahead.size && this.#fruitless >= MAX_PAGES_WITHOUT_PROGRESS) {
      // The server does not have the missing events, so it has another log than before, such as that of a restored backup.
      this.#fruitless = 0;
      return this.#owner.onRefused(
        new ChatError({ code: "bad_cursor", message: "the log has a hole", retryable: false }),
      );
    }
    this.#wait();
  }

  /** Handles a lost connection. With `keep` the next connection continues from the cursor. */
  lost(keep: boolean): void {
    this.#summarised = 0;
    if (this.#state.is === "waiting") this.#enter({ is: "following", cursor: this.#state.cursor });
    if (!keep) this.reset();
  }

  /** Forgets the cursor and the waiting events, because the server has another log than before. */
  reset(): void {
    this.#enter({ is: "unplaced" });
    this.#ahead.clear();
    this.#summarised = 0;
  }

  /** Ends the log for good, because the chat was closed: no further event is applied. */
  end(): void {
    this.#enter({ is: "ended", cursor: this.cursor });
    this.#ahead.clear();
  }

  #enter(state: State): void {
    if (this.#state.is === "ended") return;
    if (this.#state.is === "waiting") this.#owner.clock.clearTimeout(this.#state.timer);
    this.#state = state;
  }

  /** If an event is missing before those that arrived, waits a moment for it, and then loads the missing events. */
  #wait(): void {
    if (!this.#ahead.size) {
      if (this.#state.is === "waiting") this.#enter({ is: "following", cursor: this.#state.cursor });
    } else if (this.#state.is === "following") {
      const timer = this.#owner.clock.setTimeout(() => void this.fill(), MISSING_EVENT_WAIT);
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

  /** Calls `act`, and reports an exception, so that later events are still applied. */
  #attempt(act: () => void): void {
    try {
      act();
    } catch (error) {
      this.#owner.report(error);
    }
  }
}
