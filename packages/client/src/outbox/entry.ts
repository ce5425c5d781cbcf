// An entry of the outbox: a message that is not acknowledged.

import { ChatError, localError } from "../error.js";
import { Value } from "../store.js";
import type { Acknowledged, OutboxEntry, Outgoing, OutgoingState } from "../types.js";

/** The interface through which an entry uses its outbox. */
export interface EntryOwner {
  retry(entry: Entry): void;
  discard(entry: Entry): void;
}

export class Entry implements Outgoing {
  readonly state: Value<OutgoingState>;
  error: ChatError | undefined;
  /** The position in the log, once the message is stored. */
  acknowledged: Acknowledged | undefined;
  /** Whether the message was sent and has no answer yet. */
  isInFlight = false;
  acked!: Promise<Acknowledged>;
  #state: OutgoingState = "pending";
  #resolve!: (acked: Acknowledged) => void;
  #reject!: (error: ChatError) => void;

  /** Whether the message is held for moderation, and must be sent again to learn the decision. */
  needsResend = false;
  /** Whether this tab sent or retried the message; otherwise it was only read from the storage. */
  isOwn: boolean;

  /** `waitingSince`: when the message was sent or found, by the clock that users cannot set. `isLoaded`: it was read from the storage. */
  constructor(
    readonly message: OutboxEntry,
    readonly owner: EntryOwner,
    public waitingSince: number,
    readonly isLoaded = false,
  ) {
    const { state = "pending", error } = message;
    this.state = new Value<OutgoingState>(state);
    this.#state = state;
    this.needsResend = state === "held";
    this.isOwn = !isLoaded;
    this.#makePromise();
    if (state === "failed") {
      this.error = error ? new ChatError(error) : localError("internal", "it failed");
      this.#reject(this.error);
    }
  }

  get key(): string {
    return this.message.key;
  }

  get currentState(): OutgoingState {
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

  // ---- Changes of the state.

  setPending(): void {
    if (this.#state === "failed") this.#makePromise();
    this.error = undefined;
    this.#setState("pending");
    delete this.message.state;
    delete this.message.error;
  }

  setHeld(): void {
    this.#setState("held");
    this.message.state = "held";
  }

  setSent({ conversation, seq, at }: Acknowledged): void {
    // The message was taken back or had failed, but the server has stored it.
    if (this.#state === "failed") this.#makePromise();
    this.error = undefined;
    this.#setState("sent");
    this.acknowledged = { conversation, seq, at };
    this.#resolve(this.acknowledged);
  }

  setFailed(error: ChatError): void {
    this.error = error;
    this.#setState("failed");
    this.#reject(error);
  }

  /** Makes a retry fail at once with `error`, because the message cannot be sent. */
  failRetry(error: ChatError): void {
    this.#makePromise();
    this.setFailed(error);
  }

  #setState(state: OutgoingState): void {
    this.#state = state;
    this.state.set(state);
  }

  #makePromise(): void {
    this.acked = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // An app that does not await the promise reads the state, so a rejection is not unhandled.
    this.acked.catch(() => {});
  }
}
