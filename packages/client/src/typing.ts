import type { Clock, Timer } from "./clock.js";
import type { UserId } from "./protocol.js";
import { Store } from "./store.js";

/** Milliseconds for which a signal of typing lasts (docs/protocol.md). */
const SIGNAL_DURATION_MS = 5_000;
/** Milliseconds after which the signal is sent again, well before the last one expires. */
const SIGNAL_INTERVAL_MS = 3_000;

/** Who is typing in a conversation. */
export class Typing extends Store<readonly UserId[]> {
  #clock: Clock;
  #expiryTimers: Map<UserId, Timer>;
  #sendSignal: () => void;
  #sentAt = -Infinity;

  constructor(clock: Clock, send: () => void) {
    const timerByUser = new Map<UserId, Timer>();
    super(() => [...timerByUser.keys()]);
    this.#clock = clock;
    this.#expiryTimers = timerByUser;
    this.#sendSignal = send;
  }

  set(typing: boolean): void {
    const now = this.#clock.now();
    if (!typing) this.#sentAt = -Infinity;
    else if (now - this.#sentAt >= SIGNAL_INTERVAL_MS) {
      this.#sentAt = now;
      this.#sendSignal();
    }
  }

  onTypingStarted(user: UserId): void {
    this.#clock.clearTimeout(this.#expiryTimers.get(user));
    this.#expiryTimers.set(
      user,
      this.#clock.setTimeout(() => this.onTypingStopped(user), SIGNAL_DURATION_MS),
    );
    this.invalidate();
  }

  onTypingStopped(user: UserId): void {
    if (!this.#expiryTimers.has(user)) return;
    this.#clock.clearTimeout(this.#expiryTimers.get(user));
    this.#expiryTimers.delete(user);
    this.invalidate();
  }

  clear(): void {
    for (const user of this.#expiryTimers.keys()) this.onTypingStopped(user);
  }
}
