// That messages of others have arrived here: one frame tells the server of all that come in a second, in the background.

import { Alarm, type Clock } from "./clock.js";
import type { Command, Seq } from "./protocol.js";
import type { Scheduler } from "./scheduler.js";

/** Milliseconds in which arrivals are gathered. */
const GATHER = 1_000;

export class Receipts {
  #scheduler: Scheduler;
  /** How far each conversation has arrived, until the server has confirmed it: also over an outage. */
  #delivered = new Map<string, Seq>();
  /** Conversations whose request waits for its turn or its answer. */
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

  /** The server knows, of this device or another. */
  confirm(conversation: string, upto: Seq): void {
    if ((this.#delivered.get(conversation) ?? 0) <= upto) this.#delivered.delete(conversation);
  }

  /** Sends what waits, soon: after an arrival, and with a new connection. */
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
      // What arrives while the request waits for its turn goes with it.
      const command = (): Command | undefined => {
        const upto = this.#delivered.get(conversation);
        if (upto === undefined) return undefined;
        sent = upto;
        return { type: "received", conversation, upto };
      };
      await this.#scheduler.request(command, () => 0, "receipts");
    } catch (error) {
      // Without a connection the next one sends it.
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
