// How far one has read: what this client says, and what the server has confirmed, kept apart. What was read without a
// connection is sent with the next.

import { Alarm, type Clock } from "./clock.js";
import type { CursorBody, Seq } from "./protocol.js";

/** Milliseconds between two `read` frames. */
const INTERVAL = 500;

/** Sends a `read` when it is its turn. `fields` is asked then; `undefined`: the server knows already. */
export type SendRead = (fields: () => { upto: Seq } | undefined) => Promise<CursorBody | undefined>;

export class Reading {
  /** How far a person has read here. */
  #local: Seq = 0;
  /** How far the server knows. */
  #confirmed: Seq = 0;
  /** The request that waits for its turn or its answer. */
  #request: object | undefined;
  #sentAt = -Infinity;
  #next: Alarm;
  #clock: Clock;
  #send: SendRead;

  constructor(clock: Clock, send: SendRead) {
    this.#clock = clock;
    this.#next = new Alarm(clock, () => void this.#tell());
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
    this.#schedule();
  }

  /** The server says so, of this device or another. */
  confirm(upto: Seq): void {
    this.#confirmed = Math.max(this.#confirmed, upto);
  }

  /** A connection has begun. */
  resume(): void {
    this.#schedule();
  }

  /** The log is another one: numbers of the old mean nothing. */
  reset(): void {
    this.stop();
    this.#request = undefined;
    this.#local = this.#confirmed = 0;
  }

  stop(): void {
    this.#next.clear();
  }

  #schedule(): void {
    if (this.#request || this.#local <= this.#confirmed) return;
    this.#next.set(Math.max(0, this.#sentAt + INTERVAL - this.#clock.now()));
  }

  async #tell(): Promise<void> {
    const request = (this.#request = {});
    let sent: Seq | undefined;
    const fields = () => {
      if (this.#request !== request || this.#local <= this.#confirmed) return undefined;
      this.#sentAt = this.#clock.now();
      return { upto: (sent = this.#local) };
    };
    try {
      const body = await this.#send(fields);
      if (this.#request !== request) return;
      this.#request = undefined;
      if (sent !== undefined) this.confirm(body?.upto ?? sent);
      this.#schedule();
    } catch {
      // Without a connection the next one sends it; what is refused for good makes no difference any more.
      if (this.#request === request) this.#request = undefined;
    }
  }
}
