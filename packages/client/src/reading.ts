// The user's read cursor: the position in this client and the one that the server has confirmed. A position that was reached
// without a connection is sent with the next connection. The app decides when messages count as read, with `markRead()`.

import { Alarm, type Clock } from "./clock.js";
import type { CursorBody, Seq } from "./protocol.js";

/** Milliseconds between two `read` frames. */
const INTERVAL = 500;

/** Queues a `read` frame. `fields` is called when the frame can be sent; if it returns `undefined`, no frame is needed. */
export type SendRead = (fields: () => { upto: Seq } | undefined) => Promise<CursorBody | undefined>;

export class Reading {
  /** How far the user has read in this client. */
  #local: Seq = 0;
  /** The read cursor that the server has confirmed. */
  #confirmed: Seq = 0;
  /** The request that is queued or waits for its answer. */
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

  /** Handles that the user has read up to this event. */
  mark(upto: Seq): void {
    this.#local = Math.max(this.#local, upto);
    this.#schedule();
  }

  /** Handles the server's read cursor, which this device or another one has moved. */
  confirm(upto: Seq): void {
    this.#confirmed = Math.max(this.#confirmed, upto);
  }

  /** Sends an unconfirmed position with a new connection. */
  resume(): void {
    this.#schedule();
  }

  /** Forgets the positions, because the server has another log, in which the same seqs mean other events. */
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
      // If the connection was lost, the position is sent with the next connection. A final refusal can be ignored.
      if (this.#request === request) this.#request = undefined;
    }
  }
}
