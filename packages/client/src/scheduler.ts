// Background requests: a few at a time, most urgent first, and so slow that they never use up the connection's rate limit.

import { Alarm, type Clock } from "./clock.js";
import { ChatError, failure } from "./error.js";
import type { Command } from "./protocol.js";

/**
 * The lanes, and the most requests of each in flight; receipts have their own lane because the server answers them late. Of two
 * equally urgent requests the one in the earlier lane is sent first. Receipts wait for all others.
 */
const AT_ONCE = { reads: 4, pages: 4, receipts: 1 };
/** The shares of `limits.frames_per_connection` for background requests: a rate and a burst, together less than half. */
const RATE = 0.45;
const BURST = 0.04;
/** The first and the longest delay before a refused request is retried, in milliseconds; doubled each time, with jitter. */
const RETRY = 500;
const RETRY_MOST = 20_000;

/** Milliseconds after which a request without an answer shows that the connection is broken. */
const ANSWER_TIMEOUT = 30_000;

export type Lane = keyof typeof AT_ONCE;

const LANES = Object.keys(AT_ONCE) as Lane[];

interface Job {
  command: () => Command | undefined;
  /** The request with the lowest urgency number is sent first. The function is called when a request can be sent. */
  urgency: () => number;
  lane: Lane;
  attempts: number;
  /** The request is not sent before this time. */
  due: number;
  resolve: (answer: never) => void;
  reject: (error: unknown) => void;
}

/** A token bucket on the clock that users cannot set. */
export class Bucket {
  #tokens = Infinity;
  #at: number;
  #rate = Infinity;
  #burst = 1;

  constructor(readonly clock: Clock) {
    this.#at = clock.now();
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
      this.#tokens = Math.min(this.#burst, this.#tokens + ((now - this.#at) * this.#rate) / 1_000);
    this.#at = now;
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
  #bucket: Bucket;
  #waiting = new Set<Job>();
  #running: Record<Lane, number> = { reads: 0, pages: 0, receipts: 0 };
  #next: Alarm;
  #queued = false;
  #online = false;

  constructor(owner: SchedulerOwner) {
    this.#owner = owner;
    this.#next = new Alarm(owner.clock, () => this.#run());
    this.#bucket = new Bucket(owner.clock);
  }

  /** Starts with a new connection, which allows this many frames a second; 0 is no limit. */
  start(framesPerSecond: number): void {
    this.#online = true;
    const limited = framesPerSecond > 0;
    this.#bucket.configure(limited ? framesPerSecond * RATE : Infinity, Math.floor(framesPerSecond * BURST));
    this.#run();
  }

  /** Stops with a lost connection: queued requests fail with `error`. */
  stop(error: ChatError): void {
    this.#online = false;
    this.#next.clear();
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const job of waiting) job.reject(error);
  }

  /**
   * Queues a request, and retries it if the server's refusal is retryable. Fails with `offline` when the connection is lost.
   * `command` is called when the request is sent; if it returns `undefined`, none is sent.
   */
  request<T>(command: () => Command | undefined, urgency: () => number, lane: Lane = "pages"): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (!this.#online) return reject(failure("offline", "there is no connection"));
      this.#waiting.add({ command, urgency, lane, attempts: 0, due: 0, resolve, reject });
      if (this.#queued) return;
      this.#queued = true;
      // Requests of the same task are sorted before the first is sent.
      queueMicrotask(() => {
        this.#queued = false;
        this.#run();
      });
    });
  }

  /** The most urgent job that is due; a refused one becomes due later. */
  #first(now: number): Job | undefined {
    let next: Job | undefined;
    let least = Infinity;
    for (const lane of LANES) {
      if (this.#running[lane] >= AT_ONCE[lane] || (next && lane === "receipts")) continue;
      for (const job of this.#waiting) {
        if (job.lane !== lane || job.due > now) continue;
        const urgency = job.urgency();
        if (urgency < least) [next, least] = [job, urgency];
        if (least <= 0) return next;
      }
    }
    return next;
  }

  #run(): void {
    this.#next.clear();
    if (!this.#online) return;
    const now = this.#owner.clock.now();
    for (let job; (job = this.#first(now));) {
      const wait = this.#bucket.take();
      if (wait) return this.#next.set(wait);
      this.#waiting.delete(job);
      void this.#make(job);
    }
    let due = Infinity;
    for (const job of this.#waiting) if (job.due > now) due = Math.min(due, job.due);
    if (due < Infinity) this.#next.set(due - now);
  }

  async #make(job: Job): Promise<void> {
    const command = job.command();
    if (!command) return job.resolve(undefined as never);
    this.#running[job.lane]++;
    const timer = this.#owner.clock.setTimeout(() => this.#owner.onNoAnswer(), ANSWER_TIMEOUT);
    try {
      job.resolve((await this.#owner.request(command)) as never);
    } catch (error) {
      const again = error instanceof ChatError && error.retryable && error.code !== "offline" && this.#online;
      if (again) this.#retry(job, error.retryAfter);
      else job.reject(error);
    } finally {
      this.#owner.clock.clearTimeout(timer);
      this.#running[job.lane]--;
      this.#run();
    }
  }

  #retry(job: Job, retryAfter = 0): void {
    const longest = Math.min(RETRY_MOST, RETRY * 2 ** job.attempts++);
    job.due = this.#owner.clock.now() + retryAfter + longest * (0.5 + Math.random() / 2);
    this.#waiting.add(job);
  }
}
