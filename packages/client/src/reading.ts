// How far one has read: what this client says, and what the server has confirmed, kept apart. What was read without a
// connection is sent with the next.

import type { Clock, Timer } from "./clock.js";
import { ChatError } from "./error.js";
import type { CursorBody, Seq } from "./protocol.js";

/** Milliseconds between two `read` frames. */
const INTERVAL = 500;
/** Milliseconds to wait when the server could not store it, and does not say how long. */
const RETRY = 2_000;

export class Reading {
  /** How far a person has read here. */
  #local: Seq = 0;
  /** How far the server knows. */
  #confirmed: Seq = 0;
  /** The cursor of the request under way. */
  #sending: Seq = 0;
  #sentAt = -Infinity;
  #timer: Timer | undefined;
  #clock: Clock;
  /** Sends a `read`; `undefined` where there is no connection. */
  #send: (upto: Seq) => Promise<CursorBody> | undefined;

  constructor(clock: Clock, send: (upto: Seq) => Promise<CursorBody> | undefined) {
    this.#clock = clock;
    this.#send = send;
  }

  get upto(): Seq {
    return Math.max(this.#local, this.#confirmed);
  }

  get confirmed(): Seq {
    return this.#confirmed;
  }

  /** A person has read up to here. */
  mark(upto: Seq): void {
    this.#local = Math.max(this.#local, upto);
    this.#schedule(this.#sentAt + INTERVAL - this.#clock.now());
  }

  /** The server says so, of this device or another. */
  confirm(upto: Seq): void {
    this.#confirmed = Math.max(this.#confirmed, upto);
  }

  /** A connection has begun. */
  resume(): void {
    this.#sending = 0;
    this.#schedule(0);
  }

  /** The log is another one: numbers of the old mean nothing. */
  reset(): void {
    this.stop();
    this.#local = this.#confirmed = this.#sending = 0;
  }

  stop(): void {
    this.#clock.clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #schedule(delay: number): void {
    if (this.#timer !== undefined || this.#local <= Math.max(this.#confirmed, this.#sending)) return;
    this.#timer = this.#clock.setTimeout(
      () => {
        this.#timer = undefined;
        void this.#tell();
      },
      Math.max(0, delay),
    );
  }

  async #tell(): Promise<void> {
    const upto = this.#local;
    if (upto <= this.#confirmed) return;
    const answer = this.#send(upto);
    if (!answer) return;
    this.#sending = upto;
    this.#sentAt = this.#clock.now();
    try {
      this.confirm((await answer).upto ?? upto);
    } catch (error) {
      if (this.#sending === upto) this.#sending = 0;
      // Without a connection the next one sends it; what is refused for good makes no difference any more.
      if (error instanceof ChatError && error.retryable && error.code !== "offline")
        this.#schedule(error.retryAfter ?? RETRY);
    }
  }
}
