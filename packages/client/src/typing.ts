import type { UserId } from "./protocol.js";
import { Store } from "./store.js";

/** Milliseconds for which a signal of typing lasts (docs/protocol.md). */
const LASTS = 5_000;
/** Milliseconds after which it is said again, well before the last one ends. */
const AGAIN = 3_000;

/** Who is typing in a conversation. */
export class Typing extends Store<readonly UserId[]> {
  #until: Map<UserId, ReturnType<typeof setTimeout>>;
  #tell: () => void;
  #told = 0;

  constructor(tell: () => void) {
    const until = new Map<UserId, ReturnType<typeof setTimeout>>();
    super(() => [...until.keys()]);
    this.#until = until;
    this.#tell = tell;
  }

  set(typing: boolean): void {
    const now = Date.now();
    if (!typing) this.#told = 0;
    else if (now - this.#told >= AGAIN) {
      this.#told = now;
      this.#tell();
    }
  }

  started(user: UserId): void {
    clearTimeout(this.#until.get(user));
    this.#until.set(
      user,
      setTimeout(() => this.stopped(user), LASTS),
    );
    this.changed();
  }

  stopped(user: UserId): void {
    if (!this.#until.has(user)) return;
    clearTimeout(this.#until.get(user));
    this.#until.delete(user);
    this.changed();
  }

  clear(): void {
    for (const user of this.#until.keys()) this.stopped(user);
  }
}
