import { Alarm, type Clock } from "./clock.js";
import type { Command, UserId } from "./protocol.js";
import { Store } from "./store.js";
import type { ChatLimits, Presence, UserPresence } from "./types.js";

/** Milliseconds for which changes of the subscribed users are collected before a `watch`. */
const WATCH_DELAY_MS = 50;
/** The most users in a `watch` command, if the server has no limit for them. */
const DEFAULT_MAX_WATCHED = 50;

interface PresenceOwner {
  readonly clock: Clock;
  readonly online: boolean;
  readonly limits: ChatLimits | undefined;
  connect(): void;
  request<T>(command: Command): Promise<T>;
}

type WatchedPresence = Store<Presence | undefined> & { readonly watched: Store<boolean> };

/** The presence of the users to which an app has subscribed. */
export class PresenceWatch {
  #presenceByUser = new Map<UserId, Presence>();
  #storeByUser = new Map<UserId, WatchedPresence>();
  /** The users in the last `watch` command. */
  #watchedUsers = new Set<UserId>();
  /** The senders of messages of this connection, each with the direct conversation. */
  #directSenders = new Set<string>();
  #owner: PresenceOwner;
  #watchAlarm: Alarm;

  constructor(owner: PresenceOwner) {
    this.#owner = owner;
    this.#watchAlarm = new Alarm(owner.clock, () => this.#sendWatch());
  }

  presenceOf(user: UserId): UserPresence {
    let entry = this.#storeByUser.get(user);
    if (!entry) {
      const hooks = { onSubscribe: () => this.#onSubscribe(user), onUnsubscribe: () => this.watchSoon() };
      const store = new Store(() => this.#presenceByUser.get(user), hooks);
      store.onUse = () => this.#owner.connect();
      entry = Object.assign(store, { watched: new Store(() => this.#watchedUsers.has(user)) });
      this.#storeByUser.set(user, entry);
    }
    return entry;
  }

  onSignal(user: UserId, presence: Presence): void {
    this.#presenceByUser.set(user, presence);
    this.#storeByUser.get(user)?.invalidate();
  }

  /**
   * Watches the other user of a direct conversation again after the first message of either: the server sends presence once both
   * have written.
   */
  onDirectMessage(conversation: string, from: UserId): void {
    const { size } = this.#directSenders;
    if (conversation[0] === "@" && this.#directSenders.add(`${conversation} ${from}`).size > size) this.watchSoon();
  }

  /** Forgets all presence, because it may change without a connection, and the next connection has sent no `watch` yet. */
  onOffline(): void {
    this.#presenceByUser.clear();
    this.#directSenders.clear();
    this.#setWatchedUsers([]);
    for (const store of this.#storeByUser.values()) store.invalidate();
  }

  /** Sends a `watch` soon: after a change of the subscribed users, the connection, or the users who share a conversation. */
  watchSoon(): void {
    this.#watchAlarm.set(WATCH_DELAY_MS);
  }

  #sendWatch(): void {
    if (!this.#owner.online) return;
    const shownUsers = [...this.#storeByUser].filter(([, store]) => store.isSubscribed).map(([user]) => user);
    // If there are too many users for one `watch`, those of the latest subscriptions are sent: they are likely on the screen.
    const users = shownUsers.slice(-(this.#owner.limits?.watch ?? DEFAULT_MAX_WATCHED));
    if (!users.length && !this.#watchedUsers.size) return;
    this.#setWatchedUsers(users);
    this.#owner.request({ type: "watch", users }).catch(() => {});
  }

  /** Moves a user to the end, because the users of the latest subscriptions are watched if there are too many. */
  #onSubscribe(user: UserId): void {
    const entry = this.#storeByUser.get(user)!;
    this.#storeByUser.delete(user);
    this.#storeByUser.set(user, entry);
    this.watchSoon();
  }

  #setWatchedUsers(users: UserId[]): void {
    this.#watchedUsers = new Set(users);
    for (const [user, { watched }] of this.#storeByUser)
      if (watched.getSnapshot() !== this.#watchedUsers.has(user)) watched.invalidate();
  }
}
