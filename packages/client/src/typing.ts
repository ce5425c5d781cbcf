import type { Clock, Timer } from "./clock.js";
import type { UserId } from "./protocol.js";
import { Store } from "./store.js";

/** Milliseconds for which a signal of typing lasts (docs/protocol.md). */
const SIGNAL_DURATION = 5_000;
/** Milliseconds after which the signal is sent again, well before the last one expires. */
const SIGNAL_INTERVAL = 3_000;

/** Who is typing in a conversation. */
export class Typing extends Store<readonly UserId[]> {
  #clock: Clock;
  #until: Map<UserId, Timer>;
  #send: () => void;
  #sentAt = -Infinity;

  constructor(clock: Clock, send: () => void) {
    const until = new Map<UserId, Timer>();
    super(() => [...until.keys()]);
    this.#clock = clock;
    this.#until = until;
    this.#send = send;
  }

  set(typing: boolean): void {
    const now = this.#clock.now();
    if (!typing) this.#sentAt = -Infinity;
    else if (now - this.#sentAt >= SIGNAL_INTERVAL) {
      this.#sentAt = now;
      this.#send();
    }
  }

  started(user: UserId): void {
    this.#clock.clearTimeout(this.#until.get(user));
    this.#until.set(
      user,
      this.#clock.setTimeout(() => this.stopped(user), SIGNAL_DURATION),
    );
    this.changed();
  }

  stopped(user: UserId): void {
    if (!this.#until.has(user)) return;
    this.#clock.clearTimeout(this.#until.get(user));
    this.#until.delete(user);
    this.changed();
  }

  clear(): void {
    for (const user of this.#until.keys()) this.stopped(user);
  }
}
