// The list of a conversation's messages, from the moment that it is opened: the latest page, earlier ones on demand, and the
// events that come while a page is under way, which may or may not have them in it.

import { ChatError } from "./error.js";
import type { Event, HistoryBody, Seq } from "./protocol.js";
import { Timeline } from "./timeline.js";

/** Messages of a page. */
const PAGE = 50;
/** Messages that a list keeps when new ones come; what was loaded on top of them stays. */
const KEPT = 1_000;

type State =
  /** Nobody looks at the list. */
  | { is: "closed" }
  /** The latest page is to come; meanwhile the list of before is shown, if there is one. */
  | { is: "loading"; shown?: Timeline; request?: object }
  | { is: "ready"; shown: Timeline };

export interface HistoryOwner {
  /** The latest page, or the one before this message. */
  readHistory(fields: { before?: Seq; limit: number }, options?: PageOptions): Promise<HistoryBody>;
  readonly online: boolean;
  /** The latest page is there. `rebuilt`: there was a list before. */
  onLoaded(head: Seq, rebuilt: boolean): void;
  /** The latest page is not to be had. */
  onLoadFailed(error: unknown): void;
}

/** How long a person waits for an earlier page. */
export interface PageOptions {
  signal?: AbortSignal | undefined;
  timeout?: number | undefined;
}

export class History {
  #owner: HistoryOwner;
  #state: State = { is: "closed" };
  #keep = KEPT;
  /** Events applied while a page is under way, for each such page. */
  #meanwhile = new Set<Event[]>();

  constructor(owner: HistoryOwner) {
    this.#owner = owner;
  }

  get shown(): Timeline | undefined {
    return this.#state.is === "closed" ? undefined : this.#state.shown;
  }

  get open(): boolean {
    return this.#state.is !== "closed";
  }

  get ready(): boolean {
    return this.#state.is === "ready";
  }

  /** Loads the latest page, unless that is under way. Without a connection, `resume` does it. */
  load(): void {
    if (this.#state.is === "ready") return;
    if (this.#state.is === "closed") this.#state = { is: "loading" };
    if (!this.#state.request && this.#owner.online) void this.#load(this.#state);
  }

  /** Loads it anew: the list that is shown is out of date. */
  reload(): void {
    if (this.#state.is === "closed") return;
    const { shown } = this.#state;
    this.#state = { is: "loading", ...(shown && { shown }) };
    this.load();
  }

  /** There are no messages yet. */
  begin(): void {
    this.#state = { is: "ready", shown: this.shown ?? new Timeline() };
  }

  /** A connection has begun. */
  resume(): void {
    if (this.#state.is === "loading") this.load();
  }

  close(): void {
    this.#state = { is: "closed" };
    this.#keep = KEPT;
  }

  apply(event: Event): void {
    for (const events of this.#meanwhile) events.push(event);
    const { shown } = this;
    shown?.apply(event);
    // A page that is under way begins in front of the oldest message: it stays until then.
    if (shown && !this.#meanwhile.size && shown.length > this.#keep + PAGE) shown.trim(this.#keep);
  }

  /** Whether it added any. */
  async loadOlder(options: PageOptions): Promise<boolean> {
    const { shown } = this;
    if (!shown?.hasOlder) return false;
    return this.#during(async (meanwhile) => {
      const page = await this.#owner.readHistory({ before: shown.oldest as Seq, limit: PAGE }, options);
      if (this.shown !== shown) return false;
      const before = shown.length;
      shown.prepend(page, meanwhile);
      this.#keep += page.messages.length;
      return shown.length > before;
    });
  }

  async #during<T>(act: (meanwhile: Event[]) => Promise<T>): Promise<T> {
    const meanwhile: Event[] = [];
    this.#meanwhile.add(meanwhile);
    try {
      return await act(meanwhile);
    } finally {
      this.#meanwhile.delete(meanwhile);
    }
  }

  async #load(state: Extract<State, { is: "loading" }>): Promise<void> {
    const request = (state.request = {});
    await this.#during(async (meanwhile) => {
      try {
        const page = await this.#owner.readHistory({ limit: PAGE });
        if (this.#state !== state || state.request !== request) return;
        const shown = new Timeline(page);
        for (const event of meanwhile) shown.apply(event);
        const rebuilt = state.shown !== undefined;
        this.#state = { is: "ready", shown };
        this.#keep = KEPT;
        this.#owner.onLoaded(page.head, rebuilt);
      } catch (error) {
        if (this.#state !== state || state.request !== request) return;
        delete state.request;
        if (!(error instanceof ChatError) || error.code !== "offline") this.#owner.onLoadFailed(error);
      }
    });
  }
}
