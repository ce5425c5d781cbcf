// Commands for whose answer the app waits. They are sent when there is a connection, and again after a lost connection.

import type { Clock, Timer } from "./clock.js";
import { ChatError, localError } from "./error.js";
import type { Command } from "./protocol.js";
import type { ChatStatus, CommandOptions, Readable } from "./types.js";

/** The default time-out of a command, in milliseconds. */
const DEFAULT_TIMEOUT_MS = 30_000;
/** Milliseconds until the next attempt after a retryable error without `retry_after`. */
const DEFAULT_RETRY_DELAY_MS = 1_000;

export interface CommandsOwner {
  readonly clock: Clock;
  readonly status: Readable<ChatStatus>;
  readonly closed: boolean;
  request<T>(command: Command, wanted?: () => boolean): Promise<T>;
}

export class Commands {
  #owner: CommandsOwner;

  constructor(owner: CommandsOwner) {
    this.#owner = owner;
  }

  /** Sends a command, and sends it again after a lost connection or a retryable error. Repeating it must be harmless. */
  async call<T>(command: Command, options: CommandOptions = {}): Promise<T> {
    return this.#callWithTimeout(options, async (running) => {
      for (;;) {
        await this.#waitUntilOnline(running);
        try {
          return await this.#owner.request<T>(command, running);
        } catch (error) {
          if (!(error instanceof ChatError) || !error.retryable || !running()) throw error;
          if (error.code !== "offline") await this.#sleep(error.retryAfter ?? DEFAULT_RETRY_DELAY_MS);
        }
      }
    });
  }

  /** Resolves when there is a connection; rejects if the connection is lost for good. */
  ready(options: CommandOptions = {}): Promise<void> {
    return this.#callWithTimeout({ timeout: Infinity, ...options }, (running) => this.#waitUntilOnline(running));
  }

  /** Returns the result of `act`, or rejects if `act` fails, takes too long or is aborted. */
  #callWithTimeout<T>(options: CommandOptions, act: (running: () => boolean) => Promise<T>): Promise<T> {
    const { signal, timeout = DEFAULT_TIMEOUT_MS } = options;
    const { clock, status } = this.#owner;
    return new Promise<T>((resolve, reject) => {
      if (typeof timeout !== "number" || !(timeout >= 0))
        throw localError("invalid", "`timeout` must be 0 or more milliseconds");
      let running = true;
      let timer: Timer | undefined;
      const stopWaiting = () => {
        running = false;
        clock.clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
      };
      const fail = (error: ChatError) => {
        stopWaiting();
        reject(error);
      };
      const onAbort = () => fail(localError("aborted", "the app has ended it", signal?.reason));
      if (signal?.aborted) return onAbort();
      signal?.addEventListener("abort", onAbort);
      const onTimeout = () => {
        // If there is no connection, the error says so, because that is the cause of the time-out.
        const { state, reason = "there was no connection in time" } = status.getSnapshot();
        const timeoutError = localError("timeout", `there was no answer in ${timeout} ms`);
        fail(state === "online" ? timeoutError : localError("offline", reason));
      };
      if (timeout !== Infinity) timer = clock.setTimeout(onTimeout, timeout);
      act(() => running)
        .finally(stopWaiting)
        .then(resolve, reject);
    });
  }

  #sleep(time: number): Promise<void> {
    return new Promise((done) => void this.#owner.clock.setTimeout(done, time));
  }

  #waitUntilOnline(running: () => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      const stop = this.#owner.status.subscribe(({ state, retryIn, error, reason }) => {
        const end = (act: () => void) => {
          act();
          queueMicrotask(() => stop());
        };
        if (this.#owner.closed) end(() => reject(localError("closed", "the chat was closed")));
        else if (!running() || state === "online") end(resolve);
        // The connection is lost for good: there will be no other attempt.
        else if (state === "offline" && retryIn === undefined)
          end(() => reject(error ?? localError("offline", reason ?? "there is no connection")));
      });
    });
  }
}
