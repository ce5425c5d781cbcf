// Acknowledges received messages of other users: one `received` frame for all messages of a conversation within a second.

import { Alarm, type Clock } from "./clock.js";
import type { Command, Seq } from "./protocol.js";
import type { Scheduler } from "./scheduler.js";

/** Milliseconds for which arrivals are collected. */
const RECEIPT_DELAY_MS = 1_000;

export class Receipts {
  #scheduler: Scheduler;
  /** The last received event of each conversation, until the server has confirmed it; kept while there is no connection. */
  #unconfirmed = new Map<string, Seq>();
  /** Conversations whose request is queued or waits for its answer. */
  #requestedConversations = new Set<string>();
  #sendAlarm: Alarm;

  constructor(clock: Clock, scheduler: Scheduler) {
    this.#sendAlarm = new Alarm(clock, () => {
      for (const conversation of this.#unconfirmed.keys()) void this.#send(conversation);
    });
    this.#scheduler = scheduler;
  }

  onReceived(conversation: string, upto: Seq): void {
    this.#unconfirmed.set(conversation, Math.max(upto, this.#unconfirmed.get(conversation) ?? 0));
    this.sendSoon();
  }

  /** Handles the server's received cursor, which this device or another one has moved. */
  confirm(conversation: string, upto: Seq): void {
    if ((this.#unconfirmed.get(conversation) ?? 0) <= upto) this.#unconfirmed.delete(conversation);
  }

  /** Sends the waiting receipts soon: after an arrival, and with a new connection. */
  sendSoon(): void {
    if (this.#unconfirmed.size) this.#sendAlarm.set(RECEIPT_DELAY_MS);
  }

  stop(): void {
    this.#sendAlarm.clear();
  }

  async #send(conversation: string): Promise<void> {
    if (this.#requestedConversations.has(conversation)) return;
    this.#requestedConversations.add(conversation);
    let sent: Seq = 0;
    try {
      // The position is read when the request is sent, so it includes messages that arrived while the request was queued.
      const command = (): Command | undefined => {
        const upto = this.#unconfirmed.get(conversation);
        if (upto === undefined) return undefined;
        sent = upto;
        return { type: "received", conversation, upto };
      };
      await this.#scheduler.request(command, () => 0, "receipts");
    } catch (error) {
      // If the connection was lost, the receipt is sent with the next connection.
      if ((error as { code?: string }).code === "offline") sent = -1;
    } finally {
      this.#requestedConversations.delete(conversation);
    }
    const upto = this.#unconfirmed.get(conversation);
    if (upto === undefined || sent < 0) return;
    if (upto <= sent) this.#unconfirmed.delete(conversation);
    else this.sendSoon();
  }
}
