// Acknowledges received messages of other users: one `received` frame for all messages of a conversation within a second.

import { Alarm, type Clock } from "./clock.js";
import type { Command, Seq } from "./protocol.js";
import type { Scheduler } from "./scheduler.js";

/** Milliseconds for which arrivals are collected. */
const GATHER = 1_000;

export class Receipts {
  #scheduler: Scheduler;
  /** The last received event of each conversation, until the server has confirmed it; kept while there is no connection. */
  #delivered = new Map<string, Seq>();
  /** Conversations whose request is queued or waits for its answer. */
  #queued = new Set<string>();
  #next: Alarm;

  constructor(clock: Clock, scheduler: Scheduler) {
    this.#next = new Alarm(clock, () => {
      for (const conversation of this.#delivered.keys()) void this.#send(conversation);
    });
    this.#scheduler = scheduler;
  }

  note(conversation: string, upto: Seq): void {
    this.#delivered.set(conversation, Math.max(upto, this.#delivered.get(conversation) ?? 0));
    this.flush();
  }

  /** Handles the server's received cursor, which this device or another one has moved. */
  confirm(conversation: string, upto: Seq): void {
    if ((this.#delivered.get(conversation) ?? 0) <= upto) this.#delivered.delete(conversation);
  }

  /** Sends the waiting receipts soon: after an arrival, and with a new connection. */
  flush(): void {
    if (this.#delivered.size) this.#next.set(GATHER);
  }

  stop(): void {
    this.#next.clear();
  }

  async #send(conversation: string): Promise<void> {
    if (this.#queued.has(conversation)) return;
    this.#queued.add(conversation);
    let sent: Seq = 0;
    try {
      // The position is read when the request is sent, so it includes messages that arrived while the request was queued.
      const command = (): Command | undefined => {
        const upto = this.#delivered.get(conversation);
        if (upto === undefined) return undefined;
        sent = upto;
        return { type: "received", conversation, upto };
      };
      await this.#scheduler.request(command, () => 0, "receipts");
    } catch (error) {
      // If the connection was lost, the receipt is sent with the next connection.
      if ((error as { code?: string }).code === "offline") sent = -1;
    } finally {
      this.#queued.delete(conversation);
    }
    const upto = this.#delivered.get(conversation);
    if (upto === undefined || sent < 0) return;
    if (upto <= sent) this.#delivered.delete(conversation);
    else this.flush();
  }
}
