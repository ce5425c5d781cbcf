// All conversations of the fake server: executes commands, and pushes events to connections.

import { People } from "./people.js";
import type {
  Command,
  ConversationId,
  Event,
  Limits,
  Permissions,
  Presence,
  Seq,
  StoredBody,
  UserId,
} from "./frames.js";
import { type EventBody, ConversationLog } from "./log.js";
import { executeChange } from "./change.js";
import { badField, forbidden, notFound, Refusal, tooLarge } from "./refusal.js";

/** The part of a client's connection that `World` uses. */
export interface ConnectedClient {
  readonly user: UserId | undefined;
  readonly watched: ReadonlySet<UserId>;
  /** The users whose changes of the profile the client gets. */
  readonly followed: ReadonlySet<UserId>;
  push(frame: object): void;
}

/** A stored message with an idempotency key. */
interface KeyedMessage {
  request: string;
  stored: StoredBody;
}

export class ServerState {
  readonly limits: Limits;
  readonly permissions: Permissions;
  readonly logs = new Map<ConversationId, ConversationLog>();
  readonly clients = new Set<ConnectedClient>();
  readonly people = new People();
  #messageByKey = new Map<string, KeyedMessage>();
  #lastSeen = new Map<UserId, string>();
  #lastActivity = 0;
  #lastTime = 0;
  #madeNames = 0;

  constructor(limits: Limits, permissions: Permissions) {
    this.limits = limits;
    this.permissions = permissions;
  }

  // ---- Look-ups.

  /** The id of the conversation that `target` means for `user`. */
  canonical(target: string, user: UserId): ConversationId {
    if (target[0] !== "@" || target.includes(":")) return target;
    const other = target.slice(1);
    return user < other ? `@${user}:${other}` : `@${other}:${user}`;
  }

  log(target: string, user: UserId): ConversationLog {
    const log = this.logs.get(this.canonical(target, user));
    if (!log) throw notFound();
    return log;
  }

  /** A user's conversations, latest activity first. */
  conversationsOf(user: UserId): ConversationLog[] {
    const own = [...this.logs.values()].filter((log) => log.members.some(([member]) => member === user));
    return own.sort((a, b) => b.lastActivity - a.lastActivity);
  }

  /** Makes a name for a room that was created without one. */
  makeName(): string {
    return (++this.#madeNames).toString(16).padStart(32, "0");
  }

  // ---- Commands that store an event.

  /** Executes a write. `by` is the connection that sent it. */
  executeWrite(user: UserId, command: Command, by?: ConnectedClient): StoredBody {
    if (command.type === "send") return this.#sendMessage(user, command, by);
    return executeChange(this, user, command, by);
  }

  #sendMessage(user: UserId, command: Extract<Command, { type: "send" }>, by?: ConnectedClient): StoredBody {
    const { key = this.makeName(), text, data, reply_to } = command;
    const id = this.canonical(command.to, user);
    const body: EventBody = {
      type: "message",
      key,
      ...(text && { text }),
      ...(data !== undefined && { data }),
      ...(reply_to !== undefined && { reply_to }),
    };
    const request = JSON.stringify([id, body]);
    const name = JSON.stringify([user, key]);
    const before = this.#messageByKey.get(name);
    if (before) {
      if (before.request !== request) throw new Refusal("key_conflict", "this `key` was used for another message");
      return { ...before.stored, duplicate: true };
    }
    const log = this.logs.get(id) ?? this.#newDirectLog(id, user);
    this.checkWriter(log, user);
    if (reply_to !== undefined && log.events[reply_to - 1]?.type !== "message")
      throw badField("reply_to", "there is no message with this seq");
    // A direct conversation begins with its first message.
    this.logs.set(id, log);
    const stored = this.appendEvent(log, user, body, by);
    this.#messageByKey.set(name, { request, stored });
    return stored;
  }

  #newDirectLog(id: ConversationId, user: UserId): ConversationLog {
    const peers = id[0] === "@" ? id.slice(1).split(":") : [];
    if (!peers.includes(user)) throw notFound();
    const log = new ConversationLog(id);
    for (const peer of new Set(peers)) log.addMember(peer, "member");
    return log;
  }

  checkWriter(log: ConversationLog, user: UserId): void {
    if (log.checkedMembership(user).role === "reader") throw forbidden("a reader may not write here");
  }

  /** Appends an event and pushes it to the members, and to users that it adds or removes. */
  appendEvent(
    log: ConversationLog,
    from: UserId,
    body: EventBody,
    by?: ConnectedClient,
    before?: ReadonlySet<UserId>,
    back?: Seq,
  ): StoredBody {
    // Each event gets a later time than the one before, also within a millisecond.
    this.#lastTime = Math.max(Date.now(), this.#lastTime + 1);
    const event = log.append(from, body, new Date(this.#lastTime).toISOString());
    log.lastActivity = ++this.#lastActivity;
    const receivers = new Set([...(before ?? []), ...log.members.map(([user]) => user)]);
    for (const listener of this.clients) {
      if (!listener.user || !receivers.has(listener.user)) continue;
      const wasAway = back !== undefined && listener.user === (body.type === "invite" ? body.user : from);
      if (wasAway) this.replayEvents(listener, log, back, event.seq - 1);
      if (listener !== by) listener.push(event);
    }
    return { conversation: log.id, seq: event.seq, at: event.at };
  }

  /** Replays the events after a cursor, or sends `gap` if there are too many. */
  replayEvents(listener: ConnectedClient, log: ConversationLog, after: Seq, head: Seq): void {
    if (head - after > this.limits.replay) {
      return listener.push({ type: "gap", conversation: log.id, after, head });
    }
    for (const event of log.events.slice(after, head)) listener.push(event);
  }

  duplicateOf(log: ConversationLog, seq: Seq): StoredBody {
    const { at } = log.events[seq - 1] as Event;
    return { conversation: log.id, seq, at, duplicate: true };
  }

  // ---- Commands that store no event.

  /** Moves a read or received cursor. */
  moveCursor(user: UserId, command: Extract<Command, { type: "read" | "received" }>, by?: ConnectedClient): object {
    const { type, upto } = command;
    const log = this.log(command.conversation, user);
    const membership = log.checkedMembership(user);
    if (upto > log.head) throw new Refusal("bad_cursor", "the log ends before this");
    if (upto > membership[type]) {
      membership[type] = upto;
      if (type === "read") membership.received = Math.max(membership.received, upto);
      this.pushSignal(log, user, { type, conversation: log.id, user, upto }, by);
    }
    return { conversation: log.id, upto: membership[type] };
  }

  pushTyping(user: UserId, target: string, by?: ConnectedClient): void {
    const log = this.log(target, user);
    this.checkWriter(log, user);
    this.pushSignal(log, user, { type: "typing", conversation: log.id, user }, by);
  }

  pushSignal(log: ConversationLog, user: UserId, frame: object, by?: ConnectedClient): void {
    const own = log.members.length > this.limits.signal_room;
    const receivers = new Set(own ? [user] : log.members.map(([member]) => member));
    for (const listener of this.clients) {
      if (listener !== by && listener.user && receivers.has(listener.user)) listener.push(frame);
    }
  }

  pushPresences(listener: ConnectedClient, users: readonly UserId[]): void {
    if (users.length > this.limits.watch) throw tooLarge("users", `at most ${this.limits.watch}`);
    for (const user of users)
      if (this.#shareConversation(listener.user as UserId, user)) listener.push(this.#presenceOf(user));
  }

  /** Handles that a user's connection began or ended. */
  onPresenceChange(user: UserId, others: boolean): void {
    if (others) return;
    if (!this.#isOnline(user)) this.#lastSeen.set(user, new Date().toISOString());
    for (const listener of this.clients) {
      if (listener.watched.has(user) && listener.user && this.#shareConversation(listener.user, user))
        listener.push(this.#presenceOf(user));
    }
  }

  #isOnline(user: UserId): boolean {
    return [...this.clients].some((listener) => listener.user === user);
  }

  #presenceOf(user: UserId): Presence {
    const online = this.#isOnline(user);
    const last_seen = this.#lastSeen.get(user);
    return { type: "presence", user, online, ...(!online && last_seen !== undefined && { last_seen }) };
  }

  #shareConversation(user: UserId, other: UserId): boolean {
    return this.conversationsOf(user).some((log) => log.members.some(([member]) => member === other));
  }
}
