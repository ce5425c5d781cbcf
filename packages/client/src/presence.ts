import { Alarm, type Clock } from "./clock.js";
import type { Command, UserId } from "./protocol.js";
import { Store } from "./store.js";
import type { ChatLimits, Presence, UserPresence } from "./types.js";

/** Milliseconds for which changes of the subscribed users are collected before a `watch`. */
const GATHER = 50;
/** The most users in a `watch` command, if the server has no limit for them. */
const WATCH = 50;

interface PresenceOwner {
  readonly clock: Clock;
  readonly online: boolean;
  readonly limits: ChatLimits | undefined;
  use(): void;
  request<T>(command: Command): Promise<T>;
}

type Watched = Store<Presence | undefined> & { readonly watched: Store<boolean> };

/** The presence of the users to which an app has subscribed. */
export class PresenceWatch {
  #known = new Map<UserId, Presence>();
  #users = new Map<UserId, Watched>();
  /** The users in the last `watch` command. */
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

  /** Forgets all presence, because it may change without a connection, and the next connection has sent no `watch` yet. */
  onLost(): void {
    this.#known.clear();
    this.#watch([]);
    for (const store of this.#users.values()) store.changed();
  }

  /** Sends a `watch` soon: after a change of the subscribed users, the connection, or the users who share a conversation. */
  refresh(): void {
    this.#refresh.set(GATHER);
  }

  #ask(): void {
    if (!this.#owner.online) return;
    const shown = [...this.#users].filter(([, store]) => store.subscribed).map(([user]) => user);
    // If there are too many users for one `watch`, those of the latest subscriptions are sent: they are likely on the screen.
    const users = shown.slice(-(this.#owner.limits?.watch ?? WATCH));
    if (!users.length && !this.#asked.size) return;
    this.#watch(users);
    this.#owner.request({ type: "watch", users }).catch(() => {});
  }

  /** Moves a user to the end, because the users of the latest subscriptions are watched if there are too many. */
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
