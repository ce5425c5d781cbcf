import type { Command, UserId } from "./protocol.js";
import { Store } from "./store.js";
import type { Presence, Readable } from "./types.js";

/** Milliseconds in which changes of what is on the screen are gathered. */
const GATHER = 50;

interface Asks {
  readonly use: () => void;
  readonly online: boolean;
  request<T>(command: Command): Promise<T>;
}

/** Who is there, of those that somebody looks at. */
export class PresenceWatch {
  #known = new Map<UserId, Presence>();
  #stores = new Map<UserId, Store<Presence | undefined>>();
  #asks: Asks;
  #most: () => number;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** `most`: how many users the server lets one watch. */
  constructor(asks: Asks, most: () => number) {
    this.#asks = asks;
    this.#most = most;
  }

  of(user: UserId): Readable<Presence | undefined> {
    let store = this.#stores.get(user);
    if (!store) {
      store = new Store(
        () => this.#known.get(user),
        () => this.refresh(),
      );
      store.onUse = this.#asks.use;
      this.#stores.set(user, store);
    }
    return store;
  }

  heard(user: UserId, presence: Presence): void {
    this.#known.set(user, presence);
    this.#stores.get(user)?.changed();
  }

  /** What was known may have changed since. */
  lost(): void {
    this.#known.clear();
    for (const store of this.#stores.values()) store.changed();
  }

  /** Says who is on the screen: after a change of it, of the connection, or of whom one shares a conversation with. */
  refresh(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      const users = [...this.#stores].filter(([, store]) => store.subscribed).map(([user]) => user);
      if (!this.#asks.online || !users.length) return;
      this.#asks.request({ type: "watch", users: users.slice(-this.#most()) }).catch(() => {});
    }, GATHER);
  }
}
