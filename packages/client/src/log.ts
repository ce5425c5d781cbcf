// The cursor in a conversation's log: applies every event once, in order, without a gap.

import type { Clock, Timer } from "./clock.js";
import { ChatError } from "./error.js";
import type { Event, LogBody, Seq } from "./protocol.js";

/** How an event arrived: pushed or replayed on the connection, in a page, or in the answer to the user's own command. */
export type EventSource = "live" | "sync" | "own";

/** Milliseconds to wait for missing events before they are requested, because an `ok` may arrive before earlier events. */
const MISSING_EVENT_WAIT_MS = 300;
/** How many events one request for a page of the log asks for. */
const PAGE_SIZE = 200;
/** If this many pages in a row do not have the missing event, the server has another log, such as that of a restored backup. */
const MAX_PAGES_WITHOUT_PROGRESS = 3;

type State =
  /** The cursor is unknown until a page of history or a summary has arrived. */
  | { is: "unknown" }
  /** Every event up to `cursor` was applied, and nothing is known to be missing. */
  | { is: "following"; cursor: Seq }
  /** An event is missing, and may still arrive. */
  | { is: "waiting"; cursor: Seq; timer: Timer }
  /** The missing events are being loaded, page by page. */
  | { is: "loading"; cursor: Seq }
  /** The room was deleted, or the chat was closed: no event is applied any more. */
  | { is: "ended"; cursor: Seq | undefined };

export interface LogOwner {
  readonly clock: Clock;
  /** Applies an event: each once, in order. */
  applyEvent(event: Event, source: EventSource): void;
  /** Handles a pushed event that a summary already includes; listeners have not received it yet. */
  onEventInSummary(event: Event): void;
  /** Handles that an event arrived while the cursor is unknown. */
  onEarlyEvent(): void;
  /** Requests a page of the log after this event. */
  readLog(after: Seq, limit: number): Promise<LogBody>;
  /** Handles that the server refuses to send the events after the cursor. */
  onRefused(error: ChatError): void;
  report(error: unknown): void;
}

export class EventLog {
  #owner: LogOwner;
  #state: State = { is: "unknown" };
  /** Events that cannot be applied yet, because an earlier event has not arrived; by seq. */
  #waitingEvents = new Map<Seq, { event: Event; source: EventSource }>();
  /** The last event that a summary includes. The server may still push events up to this one, if the summary arrived first. */
  #summaryHead: Seq = 0;
  #pagesWithoutProgress = 0;

  constructor(owner: LogOwner) {
    this.#owner = owner;
  }

  /** The last applied event; all events before it were applied, too. `undefined` while the cursor is unknown. */
  get cursor(): Seq | undefined {
    return this.#state.is === "unknown" ? undefined : this.#state.cursor;
  }

  get isEnded(): boolean {
    return this.#state.is === "ended";
  }

  get isLoading(): boolean {
    return this.#state.is === "loading";
  }

  /**
   * Sets the cursor to `head`, because a page of history, or with `summary` a page of the inbox, includes the events up to
   * there. Events that were pushed in the meantime are still applied as new ones.
   */
  startAtHead(head: Seq, summary = false): void {
    if (this.#state.is !== "unknown") return;
    let first = Infinity;
    for (const [seq, { source }] of this.#waitingEvents) if (source !== "own") first = Math.min(first, seq);
    this.#state = { is: "following", cursor: Math.min(head, first - 1) };
    if (summary) this.#summaryHead = this.#state.cursor;
    this.#applyWaitingEvents();
    if ((this.cursor as Seq) < head) void this.loadMissed();
    else this.#awaitMissingEvents();
  }

  /** Sets the cursor to an event that was already handled, so that the events after it are applied. */
  startAtCursor(cursor: Seq): void {
    this.#enterState({ is: "following", cursor });
    this.#applyWaitingEvents();
    this.#awaitMissingEvents();
  }

  /** Events that cannot be applied yet, because an earlier event has not arrived. */
  get waitingEvents(): Event[] {
    return [...this.#waitingEvents.values()].map(({ event }) => event);
  }

  receive(event: Event, source: EventSource): void {
    const { seq } = event;
    if (this.#state.is === "ended") return;
    if (event.type === "end") {
      // The events before it may be gone.
      this.#enterState({ is: "ended", cursor: seq });
      return this.#callAndReport(() => this.#owner.applyEvent(event, source));
    }
    if (this.#state.is === "unknown") {
      this.#waitingEvents.set(seq, { event, source });
      return this.#owner.onEarlyEvent();
    }
    if (seq > this.#state.cursor) {
      if (!this.#waitingEvents.has(seq)) this.#waitingEvents.set(seq, { event, source });
      this.#applyWaitingEvents();
    } else if (seq <= this.#summaryHead && source === "live") {
      this.#callAndReport(() => this.#owner.onEventInSummary(event));
    }
    this.#awaitMissingEvents();
  }

  /** Loads the missing events, page by page. */
  async loadMissed(): Promise<void> {
    if (this.#state.is !== "following" && this.#state.is !== "waiting") return;
    const state = { is: "loading" as const, cursor: this.#state.cursor };
    const wasReplaced = () => this.#state !== (state as State);
    this.#enterState(state);
    try {
      for (let more = true; more;) {
        const page = await this.#owner.readLog(state.cursor, PAGE_SIZE);
        if (wasReplaced()) return;
        const before = state.cursor;
        for (const event of page.events) this.receive(event, "sync");
        if (wasReplaced()) return;
        this.#pagesWithoutProgress = state.cursor > before ? 0 : this.#pagesWithoutProgress + 1;
        more = page.more && page.events.length > 0 && this.#pagesWithoutProgress < MAX_PAGES_WITHOUT_PROGRESS;
      }
      this.#enterState({ is: "following", cursor: state.cursor });
    } catch (error) {
      if (wasReplaced()) return;
      this.#enterState({ is: "following", cursor: state.cursor });
      if (error instanceof ChatError && !error.retryable && error.code !== "closed") this.#owner.onRefused(error);
      else if (!(error instanceof ChatError)) this.#owner.report(error);
      return;
    }
    if (this.#waitingEvents.size && this.#pagesWithoutProgress >= MAX_PAGES_WITHOUT_PROGRESS) {
      // The server does not have the missing events, so it has another log than before, such as that of a restored backup.
      this.#pagesWithoutProgress = 0;
      return this.#owner.onRefused(
        new ChatError({ code: "bad_cursor", message: "the log has a hole", retryable: false }),
      );
    }
    this.#awaitMissingEvents();
  }

  /** Handles a lost connection. With `keep` the next connection continues from the cursor. */
  onOffline(keep: boolean): void {
    this.#summaryHead = 0;
    if (this.#state.is === "waiting") this.#enterState({ is: "following", cursor: this.#state.cursor });
    if (!keep) this.reset();
  }

  /** Forgets the cursor and the waiting events, because the server has another log than before. */
  reset(): void {
    this.#enterState({ is: "unknown" });
    this.#waitingEvents.clear();
    this.#summaryHead = 0;
  }

  /** Ends the log for good, because the chat was closed: no further event is applied. */
  close(): void {
    this.#enterState({ is: "ended", cursor: this.cursor });
    this.#waitingEvents.clear();
  }

  #enterState(state: State): void {
    if (this.#state.is === "ended") return;
    if (this.#state.is === "waiting") this.#owner.clock.clearTimeout(this.#state.timer);
    this.#state = state;
  }

  /** If an event is missing before those that arrived, waits a moment for it, and then loads the missing events. */
  #awaitMissingEvents(): void {
    if (!this.#waitingEvents.size) {
      if (this.#state.is === "waiting") this.#enterState({ is: "following", cursor: this.#state.cursor });
    } else if (this.#state.is === "following") {
      const timer = this.#owner.clock.setTimeout(() => void this.loadMissed(), MISSING_EVENT_WAIT_MS);
      this.#enterState({ is: "waiting", cursor: this.#state.cursor, timer });
    }
  }

  #applyWaitingEvents(): void {
    const state = this.#state;
    if (state.is === "unknown" || state.is === "ended") return;
    for (const seq of this.#waitingEvents.keys()) if (seq <= state.cursor) this.#waitingEvents.delete(seq);
    for (let next; this.#state === state && (next = this.#waitingEvents.get(state.cursor + 1));) {
      const { event, source } = next;
      this.#waitingEvents.delete(event.seq);
      state.cursor = event.seq;
      this.#callAndReport(() => this.#owner.applyEvent(event, source));
    }
  }

  /** Calls `act`, and reports an exception, so that later events are still applied. */
  #callAndReport(act: () => void): void {
    try {
      act();
    } catch (error) {
      this.#owner.report(error);
    }
  }
}
