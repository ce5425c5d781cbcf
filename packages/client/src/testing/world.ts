// All conversations of the fake server: executes commands, and pushes events to connections.

import type { Command, ConversationId, Event, Limits, Presence, Seq, StoredBody, UserId } from "./frames.js";
import { type Body, Log } from "./log.js";
import { change } from "./change.js";
import { badField, forbidden, notFound, Refusal, tooLarge } from "./refusal.js";

/** The part of a client's connection that `World` uses. */
export interface Listener {
  readonly user: UserId | undefined;
  readonly watched: ReadonlySet<UserId>;
  push(frame: object): void;
}

/** A stored message with an idempotency key. */
interface Keyed {
  said: string;
  stored: StoredBody;
}

export class World {
  readonly limits: Limits;
  readonly logs = new Map<ConversationId, Log>();
  readonly listeners = new Set<Listener>();
  #keys = new Map<string, Keyed>();
  #lastSeen = new Map<UserId, string>();
  #activity = 0;
  #time = 0;
  #made = 0;

  constructor(limits: Limits) {
    this.limits = limits;
  }

  // ---- Look-ups.

  /** The id of the conversation that `target` means for `user`. */
  canonical(target: string, user: UserId): ConversationId {
    if (target[0] !== "@" || target.includes(":")) return target;
    const other = target.slice(1);
    return user < other ? `@${user}:${other}` : `@${other}:${user}`;
  }

  log(target: string, user: UserId): Log {
    const log = this.logs.get(this.canonical(target, user));
    if (!log) throw notFound();
    return log;
  }

  /** A user's conversations, latest activity first. */
  inbox(user: UserId): Log[] {
    const own = [...this.logs.values()].filter((log) => log.members.some(([member]) => member === user));
    return own.sort((a, b) => b.activity - a.activity);
  }

  /** Makes a name for a room that was created without one. */
  name(): string {
    return (++this.#made).toString(16).padStart(32, "0");
  }

  // ---- Commands that store an event.

  /** Executes a write. `by` is the connection that sent it. */
  store(user: UserId, command: Command, by?: Listener): StoredBody {
    if (command.type === "send") return this.#send(user, command, by);
    return change(this, user, command, by);
  }

  #send(user: UserId, command: Extract<Command, { type: "send" }>, by?: Listener): StoredBody {
    const { key = this.name(), text, data, reply_to } = command;
    const id = this.canonical(command.to, user);
    const body: Body = {
      type: "message",
      key,
      ...(text && { text }),
      ...(data !== undefined && { data }),
      ...(reply_to !== undefined && { reply_to }),
    };
    const said = JSON.stringify([id, body]);
    const name = JSON.stringify([user, key]);
    const before = this.#keys.get(name);
    if (before) {
      if (before.said !== said) throw new Refusal("key_conflict", "this `key` was used for another message");
      return { ...before.stored, duplicate: true };
    }
    const log = this.logs.get(id) ?? this.#direct(id, user);
    this.checkWriter(log, user);
    if (reply_to !== undefined && log.events[reply_to - 1]?.type !== "message")
      throw badField("reply_to", "there is no message with this seq");
    // A direct conversation begins with its first message.
    this.logs.set(id, log);
    const stored = this.append(log, user, body, by);
    this.#keys.set(name, { said, stored });
    return stored;
  }

  #direct(id: ConversationId, user: UserId): Log {
    const peers = id[0] === "@" ? id.slice(1).split(":") : [];
    if (!peers.includes(user)) throw notFound();
    const log = new Log(id);
    for (const peer of new Set(peers)) log.enter(peer, "member");
    return log;
  }

  checkWriter(log: Log, user: UserId): void {
    if (log.member(user).role === "reader") throw forbidden("a reader may not write here");
  }

  /** Appends an event and pushes it to the members, and to users that it adds or removes. */
  append(log: Log, from: UserId, body: Body, by?: Listener, before?: ReadonlySet<UserId>, back?: Seq): StoredBody {
    // Each event gets a later time than the one before, also within a millisecond.
    this.#time = Math.max(Date.now(), this.#time + 1);
    const event = log.append(from, body, new Date(this.#time).toISOString());
    log.activity = ++this.#activity;
    const receivers = new Set([...(before ?? []), ...log.members.map(([user]) => user)]);
    for (const listener of this.listeners) {
      if (!listener.user || !receivers.has(listener.user)) continue;
      const missed = back !== undefined && listener.user === (body.type === "invite" ? body.user : from);
      if (missed) this.replay(listener, log, back, event.seq - 1);
      if (listener !== by) listener.push(event);
    }
    return { conversation: log.id, seq: event.seq, at: event.at };
  }

  /** Replays the events after a cursor, or sends `gap` if there are too many. */
  replay(listener: Listener, log: Log, after: Seq, head: Seq): void {
    if (head - after > this.limits.replay) {
      return listener.push({ type: "gap", conversation: log.id, after, head });
    }
    for (const event of log.events.slice(after, head)) listener.push(event);
  }

  repeated(log: Log, seq: Seq): StoredBody {
    const { at } = log.events[seq - 1] as Event;
    return { conversation: log.id, seq, at, duplicate: true };
  }

  // ---- Commands that store no event.

  /** Moves a read or received cursor. */
  move(user: UserId, command: Extract<Command, { type: "read" | "received" }>, by?: Listener): object {
    const { type, upto } = command;
    const log = this.log(command.conversation, user);
    const membership = log.member(user);
    if (upto > log.head) throw new Refusal("bad_cursor", "the log ends before this");
    if (upto > membership[type]) {
      membership[type] = upto;
      if (type === "read") membership.received = Math.max(membership.received, upto);
      this.signal(log, user, { type, conversation: log.id, user, upto }, by);
    }
    return { conversation: log.id, upto: membership[type] };
  }

  typing(user: UserId, target: string, by?: Listener): void {
    const log = this.log(target, user);
    this.checkWriter(log, user);
    this.signal(log, user, { type: "typing", conversation: log.id, user }, by);
  }

  signal(log: Log, user: UserId, frame: object, by?: Listener): void {
    const own = log.members.length > this.limits.signal_room;
    const receivers = new Set(own ? [user] : log.members.map(([member]) => member));
    for (const listener of this.listeners) {
      if (listener !== by && listener.user && receivers.has(listener.user)) listener.push(frame);
    }
  }

  watch(listener: Listener, users: readonly UserId[]): void {
    if (users.length > this.limits.watch) throw tooLarge("users", `at most ${this.limits.watch}`);
    for (const user of users) if (this.#share(listener.user as UserId, user)) listener.push(this.#presence(user));
  }

  /** Handles that a user's connection began or ended. */
  presenceChanged(user: UserId, others: boolean): void {
    if (others) return;
    if (!this.#online(user)) this.#lastSeen.set(user, new Date().toISOString());
    for (const listener of this.listeners) {
      if (listener.watched.has(user) && listener.user && this.#share(listener.user, user))
        listener.push(this.#presence(user));
    }
  }

  #online(user: UserId): boolean {
    return [...this.listeners].some((listener) => listener.user === user);
  }

  #presence(user: UserId): Presence {
    const online = this.#online(user);
    const last_seen = this.#lastSeen.get(user);
    return { type: "presence", user, online, ...(!online && last_seen !== undefined && { last_seen }) };
  }

  #share(user: UserId, other: UserId): boolean {
    return this.inbox(user).some((log) => log.members.some(([member]) => member === other));
  }
}
