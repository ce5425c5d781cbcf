import { Alarm, type Clock } from "./clock.js";
import type { Command, UserId } from "./protocol.js";
import { Store } from "./store.js";
import type { ChatLimits, Presence, UserPresence } from "./types.js";

/** Milliseconds in which changes of what is on the screen are gathered. */
const GATHER = 50;
/** Users that can be watched, where the server does not say. */
const WATCH = 50;

interface PresenceOwner {
  readonly clock: Clock;
  readonly online: boolean;
  readonly limits: ChatLimits | undefined;
  use(): void;
  request<T>(command: Command): Promise<T>;
}

type Watched = Store<Presence | undefined> & { readonly watched: Store<boolean> };

/** Who is there, of those whom an app shows. */
export class PresenceWatch {
  #known = new Map<UserId, Presence>();
  #users = new Map<UserId, Watched>();
  /** Whom the server was asked to watch last. */
  #asked = new Set<UserId>();
  #owner: PresenceOwner;
  #refresh: Alarm;

  constructor(owner: PresenceOwner) {
    this.#owner = owner;
    this.#refresh = new Alarm(owner.clock, () => this.#ask());
  }

  of(user: UserId): UserPresence {
    let entry = this.#users.get(user);
    if (!entry) {
      const hooks = { subscribed: () => this.#onSubscribe(user), unsubscribed: () => this.refresh() };
      const store = new Store(() => this.#known.get(user), hooks);
      store.onUse = () => this.#owner.use();
      entry = Object.assign(store, { watched: new Store(() => this.#asked.has(user)) });
      this.#users.set(user, entry);
    }
    return entry;
  }

  onSignal(user: UserId, presence: Presence): void {
    this.#known.set(user, presence);
    this.#users.get(user)?.changed();
  }

  /** What was known may have changed since, and the next connection watches nobody. */
  onLost(): void {
    this.#known.clear();
    this.#watch([]);
    for (const store of this.#users.values()) store.changed();
  }

  /** Asks for those on the screen: after a change of it, of the connection, or of whom one shares a conversation with. */
  refresh(): void {
    this.#refresh.set(GATHER);
  }

  #ask(): void {
    if (!this.#owner.online) return;
    const shown = [...this.#users].filter(([, store]) => store.subscribed).map(([user]) => user);
    // The ones that were subscribed to last: those are on the screen.
    const users = shown.slice(-(this.#owner.limits?.watch ?? WATCH));
    if (!users.length && !this.#asked.size) return;
    this.#watch(users);
    this.#owner.request({ type: "watch", users }).catch(() => {});
  }

  /** The last subscription is the last to go, where there are more than the server watches. */
  #onSubscribe(user: UserId): void {
    const entry = this.#users.get(user)!;
    this.#users.delete(user);
    this.#users.set(user, entry);
    this.refresh();
  }

  #watch(users: UserId[]): void {
    this.#asked = new Set(users);
    for (const [user, { watched }] of this.#users)
      if (watched.getSnapshot() !== this.#asked.has(user)) watched.changed();
  }
}
