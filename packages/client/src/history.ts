// The list of an open conversation's messages: the latest page, earlier pages on demand, and the events that arrive while a
// page is requested, which the page may or may not include.

import { ChatError } from "./error.js";
import type { Event, HistoryBody, Seq } from "./protocol.js";
import { Timeline } from "./timeline.js";

/** How many messages one request of history asks for. */
const PAGE_SIZE = 50;
/** How many messages a list keeps when new ones arrive; earlier pages that the app has loaded stay, too. */
const MAX_SHOWN_MESSAGES = 1_000;

type State =
  /** The list has no subscriber. */
  | { is: "closed" }
  /** The latest page is requested, or will be; meanwhile the previous list is shown, if there is one. */
  | { is: "loading"; shown?: Timeline; request?: object }
  | { is: "ready"; shown: Timeline };

export interface HistoryOwner {
  /** Requests the latest page, or the page before this message. */
  readHistory(fields: { before?: Seq; limit: number }, options?: PageOptions): Promise<HistoryBody>;
  readonly online: boolean;
  /** The latest page has arrived. `rebuilt`: it replaces an earlier list. */
  onHistoryLoaded(head: Seq, rebuilt: boolean): void;
  /** The latest page could not be loaded. */
  onHistoryLoadFailed(error: unknown): void;
}

/** How long the app waits for an earlier page. */
export interface PageOptions {
  signal?: AbortSignal | undefined;
  timeout?: number | undefined;
}

export class History {
  #owner: HistoryOwner;
  #state: State = { is: "closed" };
  #maxMessages = MAX_SHOWN_MESSAGES;
  /** For each requested page, the events that were applied since the request. */
  #eventsSinceRequests = new Set<Event[]>();

  constructor(owner: HistoryOwner) {
    this.#owner = owner;
  }

  get shownTimeline(): Timeline | undefined {
    return this.#state.is === "closed" ? undefined : this.#state.shown;
  }

  get isOpen(): boolean {
    return this.#state.is !== "closed";
  }

  get isReady(): boolean {
    return this.#state.is === "ready";
  }

  /** Loads the latest page, unless it is already requested. Without a connection, `resumeLoading` loads it later. */
  loadLatestPage(): void {
    if (this.#state.is === "ready") return;
    if (this.#state.is === "closed") this.#state = { is: "loading" };
    if (!this.#state.request && this.#owner.online) void this.#requestLatestPage(this.#state);
  }

  /** Loads the latest page again, because the list is out of date. */
  reloadLatestPage(): void {
    if (this.#state.is === "closed") return;
    const { shown } = this.#state;
    this.#state = { is: "loading", ...(shown && { shown }) };
    this.loadLatestPage();
  }

  /** Begins with an empty list, for a conversation without messages. */
  openEmpty(): void {
    this.#state = { is: "ready", shown: this.shownTimeline ?? new Timeline() };
  }

  /** Continues loading with a new connection. */
  resumeLoading(): void {
    if (this.#state.is === "loading") this.loadLatestPage();
  }

  close(): void {
    this.#state = { is: "closed" };
    this.#maxMessages = MAX_SHOWN_MESSAGES;
  }

  applyEvent(event: Event): void {
    for (const events of this.#eventsSinceRequests) events.push(event);
    const shown = this.shownTimeline;
    shown?.applyEvent(event);
    // A requested page ends before the oldest message of the list, so that message must stay until the page has arrived.
    if (shown && !this.#eventsSinceRequests.size && shown.length > this.#maxMessages + PAGE_SIZE)
      shown.trimTo(this.#maxMessages);
  }

  /** Loads an earlier page. Returns whether that added messages. */
  async loadOlder(options: PageOptions): Promise<boolean> {
    const shown = this.shownTimeline;
    if (!shown?.hasOlder) return false;
    return this.#collectEventsDuring(async (meanwhile) => {
      const before = shown.length;
      // A page may have only messages that the server withholds.
      for (let oldest; shown.hasOlder && shown.length === before && shown.oldestSeq !== oldest;) {
        oldest = shown.oldestSeq as Seq;
        const page = await this.#owner.readHistory({ before: oldest, limit: PAGE_SIZE }, options);
        if (this.shownTimeline !== shown) return false;
        shown.prepend(page, meanwhile);
        this.#maxMessages += page.messages.length;
      }
      return shown.length > before;
    });
  }

  async #collectEventsDuring<T>(act: (meanwhile: Event[]) => Promise<T>): Promise<T> {
    const eventsMeanwhile: Event[] = [];
    this.#eventsSinceRequests.add(eventsMeanwhile);
    try {
      return await act(eventsMeanwhile);
    } finally {
      this.#eventsSinceRequests.delete(eventsMeanwhile);
    }
  }

  async #requestLatestPage(state: Extract<State, { is: "loading" }>): Promise<void> {
    const request = (state.request = {});
    await this.#collectEventsDuring(async (meanwhile) => {
      try {
        const page = await this.#owner.readHistory({ limit: PAGE_SIZE });
        if (this.#state !== state || state.request !== request) return;
        const shown = new Timeline(page);
        for (const event of meanwhile) shown.applyEvent(event);
        const rebuilt = state.shown !== undefined;
        this.#state = { is: "ready", shown };
        this.#maxMessages = MAX_SHOWN_MESSAGES;
        this.#owner.onHistoryLoaded(page.head, rebuilt);
      } catch (error) {
        if (this.#state !== state || state.request !== request) return;
        delete state.request;
        if (!(error instanceof ChatError) || error.code !== "offline") this.#owner.onHistoryLoadFailed(error);
      }
    });
  }
}
