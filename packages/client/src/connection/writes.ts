// Keeps the order of one connection's writes: after a retryable refusal the server also refuses the writes that were sent
// later, and the client sends all of them again.

import { Alarm, type Clock } from "../clock.js";
import { ChatError, failure } from "../error.js";
import type { Command, OkBody } from "../protocol.js";

/** Milliseconds until the next attempt if the refusal has no `retry_after`. */
const PAUSE = 1_000;

export type Done = (reply: OkBody | ChatError) => void;

interface Write {
  readonly command: Command;
  readonly done: Done;
  /** Whether the write shall still be sent again after a refusal. */
  readonly wanted: () => boolean;
  /** The number of the write, which is also its `id`. */
  readonly n: number;
  sent?: boolean;
}

export class Writes {
  /** The writes that are neither stored nor refused for good, in order. */
  #queue: Write[] = [];
  #underWay = 0;
  /** The most writes in flight. One after a refusal, which may be due to a rate limit; one more after each stored write. */
  #most = Infinity;
  /** The longest `retry_after` of the refusals since the last attempt, in milliseconds. */
  #wait: number | undefined;
  #pause: Alarm;
  /** The number of the last stored write. */
  #stored = 0;

  constructor(
    clock: Clock,
    /** Sends a write that follows the write number `after`. */
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

  /** Fails all writes with `error`, because the connection is lost. */
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
    // The server also refuses writes in flight that were sent after a refused one; the pause begins when all are answered.
    if (this.#wait !== undefined && !this.#underWay) this.#pause.set(this.#wait);
    this.#flush();
  }
}
