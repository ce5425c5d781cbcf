// Keeps the order of one connection's writes: after a retryable refusal the server also refuses the writes that were sent
// later, and the client sends all of them again.

import { Alarm, type Clock } from "../clock.js";
import { ChatError, localError } from "../error.js";
import type { Command, OkBody } from "../protocol.js";

/** Milliseconds until the next attempt if the refusal has no `retry_after`. */
const DEFAULT_RETRY_DELAY_MS = 1_000;

export type ReplyHandler = (reply: OkBody | ChatError) => void;

interface QueuedWrite {
  readonly command: Command;
  readonly onReply: ReplyHandler;
  /** Whether the write shall still be sent again after a refusal. */
  readonly isWanted: () => boolean;
  /** The number of the write, which is also its `id`. */
  readonly number: number;
  isSent?: boolean;
}

export class WriteQueue {
  /** The writes that are neither stored nor refused for good, in order. */
  #queue: QueuedWrite[] = [];
  #inFlight = 0;
  /** The most writes in flight. One after a refusal, which may be due to a rate limit; one more after each stored write. */
  #maxInFlight = Infinity;
  /** The longest `retry_after` of the refusals since the last attempt, in milliseconds. */
  #retryAfterMs: number | undefined;
  #retryAlarm: Alarm;
  /** The number of the last stored write. */
  #lastStoredNumber = 0;

  constructor(
    clock: Clock,
    /** Sends a write that follows the write number `after`. */
    readonly sendWrite: (write: QueuedWrite, after: number, done: ReplyHandler) => void,
  ) {
    this.#retryAlarm = new Alarm(clock, () => {
      this.#retryAfterMs = undefined;
      this.#sendQueued();
    });
  }

  add(write: QueuedWrite): void {
    this.#queue.push(write);
    this.#sendQueued();
  }

  /** Fails all writes with `error`, because the connection is lost. */
  failAll(error: ChatError): void {
    this.#retryAlarm.clear();
    for (const { onReply } of this.#queue.splice(0)) onReply(error);
  }

  #sendQueued(): void {
    while (this.#retryAfterMs === undefined && this.#inFlight < this.#maxInFlight) {
      const firstUnsent = this.#queue.findIndex(({ isSent }) => !isSent);
      const write = this.#queue[firstUnsent];
      if (!write) return;
      write.isSent = true;
      this.#inFlight++;
      const onReply = (reply: OkBody | ChatError) => this.#onAnswer(write, reply);
      if (write.isWanted())
        this.sendWrite(write, this.#queue[firstUnsent - 1]?.number ?? this.#lastStoredNumber, onReply);
      else onReply(localError("aborted", "not wanted any more"));
    }
  }

  #onAnswer(write: QueuedWrite, reply: OkBody | ChatError): void {
    const at = this.#queue.indexOf(write);
    if (at < 0) return;
    this.#inFlight--;
    write.isSent = false;
    if (reply instanceof ChatError && reply.retryable) {
      this.#maxInFlight = 1;
      this.#retryAfterMs = Math.max(this.#retryAfterMs ?? 0, reply.retryAfter ?? DEFAULT_RETRY_DELAY_MS);
    } else {
      this.#queue.splice(at, 1);
      if (!(reply instanceof ChatError)) {
        this.#lastStoredNumber = write.number;
        this.#maxInFlight++;
      }
      write.onReply(reply);
    }
    // The server also refuses writes in flight that were sent after a refused one; the pause begins when all are answered.
    if (this.#retryAfterMs !== undefined && !this.#inFlight) this.#retryAlarm.set(this.#retryAfterMs);
    this.#sendQueued();
  }
}
