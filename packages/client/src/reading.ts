// The user's read cursor: the position in this client and the one that the server has confirmed. A position that was reached
// without a connection is sent with the next connection. The app decides when messages count as read, with `markRead()`.

import { Alarm, type Clock } from "./clock.js";
import type { CursorBody, Seq } from "./protocol.js";

/** Milliseconds between two `read` frames. */
const MIN_READ_INTERVAL_MS = 500;

/** Queues a `read` frame. `fields` is called when the frame can be sent; if it returns `undefined`, no frame is needed. */
export type QueueRead = (fields: () => { upto: Seq } | undefined) => Promise<CursorBody | undefined>;

export class ReadCursor {
  /** How far the user has read in this client. */
  #localSeq: Seq = 0;
  /** The read cursor that the server has confirmed. */
  #confirmedSeq: Seq = 0;
  /** The request that is queued or waits for its answer. */
  #request: object | undefined;
  #sentAt = -Infinity;
  #sendAlarm: Alarm;
  #clock: Clock;
  #queueRead: QueueRead;

  constructor(clock: Clock, send: QueueRead) {
    this.#clock = clock;
    this.#sendAlarm = new Alarm(clock, () => void this.#sendRead());
    this.#queueRead = send;
  }

  get readUpto(): Seq {
    return Math.max(this.#localSeq, this.#confirmedSeq);
  }

  get confirmedUpto(): Seq {
    return this.#confirmedSeq;
  }

  /** Handles that the user has read up to this event. */
  markRead(upto: Seq): void {
    this.#localSeq = Math.max(this.#localSeq, upto);
    this.#scheduleSend();
  }

  /** Handles the server's read cursor, which this device or another one has moved. */
  confirm(upto: Seq): void {
    this.#confirmedSeq = Math.max(this.#confirmedSeq, upto);
  }

  /** Sends an unconfirmed position with a new connection. */
  sendUnconfirmed(): void {
    this.#scheduleSend();
  }

  /** Forgets the positions, because the server has another log, in which the same seqs mean other events. */
  reset(): void {
    this.stop();
    this.#request = undefined;
    this.#localSeq = this.#confirmedSeq = 0;
  }

  stop(): void {
    this.#sendAlarm.clear();
  }

  #scheduleSend(): void {
    if (this.#request || this.#localSeq <= this.#confirmedSeq) return;
    this.#sendAlarm.set(Math.max(0, this.#sentAt + MIN_READ_INTERVAL_MS - this.#clock.now()));
  }

  async #sendRead(): Promise<void> {
    const request = (this.#request = {});
    let sent: Seq | undefined;
    const fields = () => {
      if (this.#request !== request || this.#localSeq <= this.#confirmedSeq) return undefined;
      this.#sentAt = this.#clock.now();
      return { upto: (sent = this.#localSeq) };
    };
    try {
      const body = await this.#queueRead(fields);
      if (this.#request !== request) return;
      this.#request = undefined;
      if (sent !== undefined) this.confirm(body?.upto ?? sent);
      this.#scheduleSend();
    } catch {
      // If the connection was lost, the position is sent with the next connection. A final refusal can be ignored.
      if (this.#request === request) this.#request = undefined;
    }
  }
}
