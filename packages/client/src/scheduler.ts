// Background requests: a few at a time, most urgent first, and so slow that they never use up the connection's rate limit.

import { Alarm, type Clock } from "./clock.js";
import { ChatError, localError } from "./error.js";
import type { Command } from "./protocol.js";

/**
 * The lanes, and the most requests of each in flight; receipts have their own lane because the server answers them late. Of two
 * equally urgent requests the one in the earlier lane is sent first. Receipts wait for all others.
 */
const MAX_IN_FLIGHT = { reads: 4, pages: 4, receipts: 1 };
/** The shares of `limits.frames_per_connection` for background requests: a rate and a burst, together less than half. */
const RATE_SHARE = 0.45;
const BURST_SHARE = 0.04;
/** The first and the longest delay before a refused request is retried, in milliseconds; doubled each time, with jitter. */
const INITIAL_RETRY_DELAY_MS = 500;
const MAX_RETRY_DELAY_MS = 20_000;

/** Milliseconds after which a request without an answer shows that the connection is broken. */
const ANSWER_TIMEOUT_MS = 30_000;

export type Lane = keyof typeof MAX_IN_FLIGHT;

const LANES = Object.keys(MAX_IN_FLIGHT) as Lane[];

interface QueuedRequest {
  command: () => Command | undefined;
  /** The request with the lowest urgency number is sent first. The function is called when a request can be sent. */
  urgency: () => number;
  lane: Lane;
  attempts: number;
  /** The request is not sent before this time. */
  notBefore: number;
  resolve: (answer: never) => void;
  reject: (error: unknown) => void;
}

/** A token bucket on the clock that users cannot set. */
export class TokenBucket {
  #tokens = Infinity;
  #refilledAt: number;
  #rate = Infinity;
  #burst = 1;

  constructor(readonly clock: Clock) {
    this.#refilledAt = clock.now();
  }

  /** `rate`: tokens a second. */
  configure(rate: number, burst: number): void {
    this.#refill();
    this.#rate = rate;
    this.#burst = Math.max(1, burst);
    this.#tokens = Math.min(this.#tokens, this.#burst);
  }

  /** Takes a token and returns 0, or returns the milliseconds until there is one. */
  take(): number {
    if (this.#rate === Infinity) return 0;
    this.#refill();
    if (this.#tokens < 1) return Math.ceil(((1 - this.#tokens) / this.#rate) * 1_000);
    this.#tokens--;
    return 0;
  }

  #refill(): void {
    const now = this.clock.now();
    if (this.#rate !== Infinity)
      this.#tokens = Math.min(this.#burst, this.#tokens + ((now - this.#refilledAt) * this.#rate) / 1_000);
    this.#refilledAt = now;
  }
}

export interface SchedulerOwner {
  readonly clock: Clock;
  request<T>(command: Command): Promise<T>;
  /** Handles a request without an answer: the owner closes the connection, which fails the request. */
  onNoAnswer(): void;
}

export class Scheduler {
  #owner: SchedulerOwner;
  #bucket: TokenBucket;
  #queue = new Set<QueuedRequest>();
  #inFlight: Record<Lane, number> = { reads: 0, pages: 0, receipts: 0 };
  #sendAlarm: Alarm;
  #sendIsPlanned = false;
  #isOnline = false;

  constructor(owner: SchedulerOwner) {
    this.#owner = owner;
    this.#sendAlarm = new Alarm(owner.clock, () => this.#sendDue());
    this.#bucket = new TokenBucket(owner.clock);
  }

  /** Starts with a new connection, which allows this many frames a second; 0 is no limit. */
  start(framesPerSecond: number): void {
    this.#isOnline = true;
    const limited = framesPerSecond > 0;
    this.#bucket.configure(
      limited ? framesPerSecond * RATE_SHARE : Infinity,
      Math.floor(framesPerSecond * BURST_SHARE),
    );
    this.#sendDue();
  }

  /** Stops with a lost connection: queued requests fail with `error`. */
  stop(error: ChatError): void {
    this.#isOnline = false;
    this.#sendAlarm.clear();
    const waiting = [...this.#queue];
    this.#queue.clear();
    for (const job of waiting) job.reject(error);
  }

  /**
   * Queues a request, and retries it if the server's refusal is retryable. Fails with `offline` when the connection is lost.
   * `command` is called when the request is sent; if it returns `undefined`, none is sent.
   */
  request<T>(command: () => Command | undefined, urgency: () => number, lane: Lane = "pages"): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (!this.#isOnline) return reject(localError("offline", "there is no connection"));
      this.#queue.add({ command, urgency, lane, attempts: 0, notBefore: 0, resolve, reject });
      if (this.#sendIsPlanned) return;
      this.#sendIsPlanned = true;
      // Requests of the same task are sorted before the first is sent.
      queueMicrotask(() => {
        this.#sendIsPlanned = false;
        this.#sendDue();
      });
    });
  }

  /** The most urgent job that is due; a refused one becomes due later. */
  #mostUrgent(now: number): QueuedRequest | undefined {
    let next: QueuedRequest | undefined;
    let least = Infinity;
    for (const lane of LANES) {
      if (this.#inFlight[lane] >= MAX_IN_FLIGHT[lane] || (next && lane === "receipts")) continue;
      for (const job of this.#queue) {
        if (job.lane !== lane || job.notBefore > now) continue;
        const urgency = job.urgency();
        if (urgency < least) [next, least] = [job, urgency];
        if (least <= 0) return next;
      }
    }
    return next;
  }

  #sendDue(): void {
    this.#sendAlarm.clear();
    if (!this.#isOnline) return;
    const now = this.#owner.clock.now();
    for (let job; (job = this.#mostUrgent(now));) {
      const wait = this.#bucket.take();
      if (wait) return this.#sendAlarm.set(wait);
      this.#queue.delete(job);
      void this.#send(job);
    }
    let due = Infinity;
    for (const job of this.#queue) if (job.notBefore > now) due = Math.min(due, job.notBefore);
    if (due < Infinity) this.#sendAlarm.set(due - now);
  }

  async #send(job: QueuedRequest): Promise<void> {
    const command = job.command();
    if (!command) return job.resolve(undefined as never);
    this.#inFlight[job.lane]++;
    const timer = this.#owner.clock.setTimeout(() => this.#owner.onNoAnswer(), ANSWER_TIMEOUT_MS);
    try {
      job.resolve((await this.#owner.request(command)) as never);
    } catch (error) {
      const again = error instanceof ChatError && error.retryable && error.code !== "offline" && this.#isOnline;
      if (again) this.#queueRetry(job, error.retryAfter);
      else job.reject(error);
    } finally {
      this.#owner.clock.clearTimeout(timer);
      this.#inFlight[job.lane]--;
      this.#sendDue();
    }
  }

  #queueRetry(job: QueuedRequest, retryAfter = 0): void {
    const longest = Math.min(MAX_RETRY_DELAY_MS, INITIAL_RETRY_DELAY_MS * 2 ** job.attempts++);
    job.notBefore = this.#owner.clock.now() + retryAfter + longest * (0.5 + Math.random() / 2);
    this.#queue.add(job);
  }
}
