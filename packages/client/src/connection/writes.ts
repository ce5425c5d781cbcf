// The order of one connection's writes: after a refusal for now, what was sent behind it is refused as well, and all of
// it is sent again.

import { Alarm, type Clock } from "../clock.js";
import { ChatError, failure } from "../error.js";
import type { Command, OkBody } from "../protocol.js";

/** Milliseconds to wait when the server does not say how long. */
const PAUSE = 1_000;

export type Done = (reply: OkBody | ChatError) => void;

interface Write {
  readonly command: Command;
  readonly done: Done;
  /** Whether it is to be sent again. */
  readonly wanted: () => boolean;
  /** Its number, which is its `id` as well. */
  readonly n: number;
  sent?: boolean;
}

export class Writes {
  /** Those that are neither stored nor refused for good, in their order. */
  #queue: Write[] = [];
  #underWay = 0;
  /** How many may be under way: few after a refusal, because a rate may be the cause. */
  #most = Infinity;
  /** How long to wait, by the refusals since the last attempt. */
  #wait: number | undefined;
  #pause: Alarm;
  /** The number of the last one that was stored. */
  #stored = 0;

  constructor(
    clock: Clock,
    /** Sends one that follows the write `after`. */
    readonly send: (write: Write, after: number, done: Done) => void,
  ) {
    this.#pause = new Alarm(clock, () => {
      this.#wait = undefined;
      this.#flush();
    });
  }

  add(write: Write): void {
    this.#queue.push(write);
    this.#flush();
  }

  /** The connection is lost. */
  end(error: ChatError): void {
    this.#pause.clear();
    for (const { done } of this.#queue.splice(0)) done(error);
  }

  #flush(): void {
    while (this.#wait === undefined && this.#underWay < this.#most) {
      const at = this.#queue.findIndex(({ sent }) => !sent);
      const write = this.#queue[at];
      if (!write) return;
      write.sent = true;
      this.#underWay++;
      const done = (reply: OkBody | ChatError) => this.#onAnswer(write, reply);
      if (write.wanted()) this.send(write, this.#queue[at - 1]?.n ?? this.#stored, done);
      else done(failure("aborted", "not wanted any more"));
    }
  }

  #onAnswer(write: Write, reply: OkBody | ChatError): void {
    const at = this.#queue.indexOf(write);
    if (at < 0) return;
    this.#underWay--;
    write.sent = false;
    if (reply instanceof ChatError && reply.retryable) {
      this.#most = 1;
      this.#wait = Math.max(this.#wait ?? 0, reply.retryAfter ?? PAUSE);
    } else {
      this.#queue.splice(at, 1);
      if (!(reply instanceof ChatError)) {
        this.#stored = write.n;
        this.#most++;
      }
      write.done(reply);
    }
    // What is under way behind a refused one is refused as well.
    if (this.#wait !== undefined && !this.#underWay) this.#pause.set(this.#wait);
    this.#flush();
  }
}
