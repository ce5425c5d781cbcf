// A message on its way.

import { ChatError, failure } from "../error.js";
import { Value } from "../store.js";
import type { Acknowledged, OutboxEntry, Outgoing, OutgoingState } from "../types.js";

/** What an entry asks of its outbox. */
export interface EntryOwner {
  retry(entry: Entry): void;
  discard(entry: Entry): void;
}

export class Entry implements Outgoing {
  readonly state: Value<OutgoingState>;
  error: ChatError | undefined;
  /** Where it stands in the log, once it is stored. */
  stored: Acknowledged | undefined;
  /** It was given to the server, which has not answered. */
  underWay = false;
  acked!: Promise<Acknowledged>;
  #state: OutgoingState = "pending";
  #resolve!: (acked: Acknowledged) => void;
  #reject!: (error: ChatError) => void;

  /** It is held, and the server is asked what became of it. */
  asks = false;
  /** It was sent or retried here, and not read from the storage alone. */
  isOwn: boolean;

  /** `since`: when it was said or found, by a clock that nobody sets; `found`: it was said by an earlier page. */
  constructor(
    readonly what: OutboxEntry,
    readonly owner: EntryOwner,
    public since: number,
    readonly found = false,
  ) {
    const { state = "pending", error } = what;
    this.state = new Value<OutgoingState>(state);
    this.#state = state;
    this.asks = state === "held";
    this.isOwn = !found;
    this.#promise();
    if (state === "failed") {
      this.error = error ? new ChatError(error) : failure("internal", "it failed");
      this.#reject(this.error);
    }
  }

  get key(): string {
    return this.what.key;
  }

  get current(): OutgoingState {
    return this.#state;
  }

  /** `await room.send("hi")` waits for the acknowledgement. */
  then<A = Acknowledged, B = never>(
    done?: ((acked: Acknowledged) => A | PromiseLike<A>) | null,
    failed?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.acked.then(done, failed);
  }

  catch<B = never>(failed?: ((error: unknown) => B | PromiseLike<B>) | null): Promise<Acknowledged | B> {
    return this.acked.catch(failed);
  }

  finally(done?: (() => void) | null): Promise<Acknowledged> {
    return this.acked.finally(done);
  }

  get [Symbol.toStringTag](): string {
    return "Outgoing";
  }

  retry(): void {
    if (this.#state === "failed") this.owner.retry(this);
  }

  discard(): void {
    if (this.#state !== "sent") this.owner.discard(this);
  }

  // ---- What becomes of it.

  setPending(): void {
    if (this.#state === "failed") this.#promise();
    this.error = undefined;
    this.#set("pending");
    delete this.what.state;
    delete this.what.error;
  }

  setHeld(): void {
    this.#set("held");
    this.what.state = "held";
  }

  setSent({ conversation, seq, at }: Acknowledged): void {
    // It was taken back or given up, and the server has stored it all the same.
    if (this.#state === "failed") this.#promise();
    this.error = undefined;
    this.#set("sent");
    this.stored = { conversation, seq, at };
    this.#resolve(this.stored);
  }

  setFailed(error: ChatError): void {
    this.error = error;
    this.#set("failed");
    this.#reject(error);
  }

  /** A retry that is not possible any more. */
  refuse(error: ChatError): void {
    this.#promise();
    this.setFailed(error);
  }

  #set(state: OutgoingState): void {
    this.#state = state;
    this.state.set(state);
  }

  #promise(): void {
    this.acked = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // An app that does not wait for it reads the state.
    this.acked.catch(() => {});
  }
}
