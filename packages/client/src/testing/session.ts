// One connection: `hello`, then commands, each answered before the next is read.

import type { Command, Hello, Limits, Permissions, Seq, UserId, Welcome } from "../protocol.js";
import { parseCommand, parseId, parseWriteNumber } from "./parse.js";
import { badField, notFound, Refusal } from "./refusal.js";
import type { ConnectedClient, ServerState } from "./world.js";

/** The most conversations that `welcome.unread` counts. */
const MAX_COUNTED_CONVERSATIONS = 200;

/** What every user may do by default, as on the real server. */
export const PERMISSIONS: Permissions = {
  create_rooms: true,
  public_rooms: true,
  invite: "members",
  contact: ["all"],
  others: "refuse",
  directory: "shared",
};

interface SessionSocket {
  push(frame: object): void;
  closeByServer(code: number, reason: string): void;
}

/** Answers a command of a user. `by`: the connection that sent it; `undefined` for a command over HTTP. */
export function executeCommand(world: ServerState, user: UserId, command: Command, by?: ConnectedClient): object {
  const pageLimit = (limit = Math.floor(world.limits.page / 2)) => Math.min(Math.max(limit, 1), world.limits.page);
  switch (command.type) {
    case "sync":
      return world.log(command.conversation, user).logPage(user, command.after ?? 0, pageLimit(command.limit));
    case "history": {
      const log = world.log(command.conversation, user);
      const { around } = command as { around?: Seq };
      if (around !== undefined) return log.pageAround(user, pageLimit(command.limit), around);
      return log.historyPage(user, pageLimit(command.limit), command.before);
    }
    case "conversations":
      return inboxPage(world, user, pageLimit(command.limit), command.before);
    case "members": {
      const log = world.log(command.conversation, user);
      log.checkedMembership(user);
      const all = log.memberList();
      const first = command.after === undefined ? 0 : all.findIndex((member) => member.user === command.after) + 1;
      if (command.after !== undefined && !first) throw new Refusal("bad_field", "after: never a member", "after");
      const members = all.slice(first, first + pageLimit(command.limit));
      return { conversation: log.id, members, more: first + members.length < all.length };
    }
    case "read":
    case "received":
      return world.moveCursor(user, command, by);
    case "profile": {
      const { type: _, ...fields } = command;
      return world.people.change(user, fields, world.clients);
    }
    case "users":
      return world.people.page(command);
    case "find_users":
      return world.people.find(command, pageLimit(command.limit));
    case "typing":
      world.pushTyping(user, command.conversation, by);
      return {};
    default:
      return world.executeWrite(user, command, by);
  }
}

function inboxPage(world: ServerState, user: UserId, limit: number, before?: string) {
  const logs = world.conversationsOf(user);
  const first = before === undefined ? 0 : logs.findIndex(({ id }) => id === world.canonical(before, user)) + 1;
  if (before !== undefined && !first) throw notFound();
  const page = logs.slice(first, first + limit);
  return { conversations: page.map((log) => log.summaryFor(user)), more: first + page.length < logs.length };
}

export class Session implements ConnectedClient {
  user: UserId | undefined;
  watched: ReadonlySet<UserId> = new Set();
  followed: ReadonlySet<UserId> = new Set();
  #world: ServerState;
  #socket: SessionSocket;
  #isEnded = false;
  /** The number of the last stored write, and that of the last write that was stored or refused for good. */
  #lastStoredNumber = 0;
  #lastSettledNumber = 0;

  constructor(world: ServerState, wire: SessionSocket) {
    this.#world = world;
    this.#socket = wire;
  }

  push(frame: object): void {
    this.#socket.push(frame);
  }

  onData(data: string): void {
    if (this.#isEnded) return;
    const limits: Limits = this.#world.limits;
    if (data.length > (this.user === undefined ? limits.hello_frame : limits.frame))
      return this.#close(1009, "too large");
    let id: { id?: string | number } = {};
    let tried = false;
    let number: { n: number; after: number } | undefined;
    try {
      const frame = parseObject(data);
      id = parseId(frame["id"]);
      const knownUser = this.user;
      tried = frame["type"] === "hello";
      if (knownUser === undefined) return this.#hello(frame);
      number = this.#checkWriteNumber(parseWriteNumber(frame));
      const command = parseCommand(frame, limits);
      if (command.type === "hello") throw new Refusal("bad_frame", "`hello` was said");
      if (command.type === "ping") return this.push({ type: "pong", ...id });
      if (command.type === "token") return this.#renew(command.token, id);
      if (command.type === "watch") return this.#watch(command.users, id);
      const body = executeCommand(this.#world, knownUser, command, this);
      if (command.type === "users") this.followed = new Set([...command.users, ...this.followed]);
      this.#lastStoredNumber = number?.n ?? this.#lastStoredNumber;
      this.#lastSettledNumber = Math.max(this.#lastSettledNumber, this.#lastStoredNumber);
      this.push({ type: "ok", ...id, ...body });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      // This fake server refuses no write as retryable, so a refused write is never sent again.
      this.#lastSettledNumber = Math.max(this.#lastSettledNumber, number?.n ?? 0);
      this.push({ type: "error", ...id, ...error.failure });
      // If the first frame is refused, the connection is closed.
      if (this.user === undefined) this.#close(error.code === "unauthorized" && tried ? 4501 : 1008, error.message);
    }
  }

  /** Refuses a write if the write before it was neither stored nor refused for good. */
  #checkWriteNumber(number: { n: number; after: number } | undefined) {
    if (number && number.after > this.#lastSettledNumber)
      throw new Refusal("unavailable", `write ${number.after}, which this one follows, was not stored`);
    if (number && number.n <= this.#lastStoredNumber) throw badField("n", `write ${this.#lastStoredNumber} is stored`);
    return number;
  }

  onClose(): void {
    if (!this.#world.clients.delete(this) || this.user === undefined) return;
    this.#world.onPresenceChange(this.user, this.#hasOtherConnections());
  }

  #close(code: number, reason: string): void {
    this.#isEnded = true;
    this.#socket.closeByServer(code, reason);
  }

  #watch(users: UserId[], id: object): void {
    this.#world.pushPresences(this, users);
    this.watched = new Set(users);
    this.push({ type: "ok", ...id });
  }

  #renew(token: string, id: object): void {
    if (userOf({ token }) !== this.user) throw new Refusal("unauthorized", "the token is another user's");
    const expires = new Date((claimsOf(token)["exp"] as number) * 1_000).toISOString();
    this.push({ type: "ok", ...id, expires, permissions: PERMISSIONS });
  }

  #hello(frame: Record<string, unknown>): void {
    // If the first frame is not `hello`, it is refused without checking its fields.
    if (frame["type"] !== "hello") throw new Refusal("unauthorized", "the first frame is `hello`");
    const hello = parseCommand(frame, this.#world.limits) as { user?: UserId } & Hello;
    this.#welcome(userOf(hello), hello.cursors ?? {});
  }

  #welcome(user: UserId, cursors: Record<string, Seq>): void {
    const world = this.#world;
    this.user = user;
    const others = this.#hasOtherConnections();
    const page = inboxPage(world, user, Math.floor(world.limits.page / 2));
    const welcome: Welcome & { unread: object } = {
      user,
      connection: world.makeName(),
      server: "switchboard/fake",
      features: ["numbers", "profiles", "token", "permissions"],
      limits: world.limits,
      ...page,
      unread: unreadTotal(world, user),
      permissions: this.#world.permissions,
    };
    this.push({ type: "welcome", ...welcome });
    const followedLogs = Object.keys(cursors)
      .sort()
      .filter((id) => this.#checkCursor(user, id, cursors[id] as Seq));
    for (const id of followedLogs) {
      const log = world.log(id, user);
      world.replayEvents(this, log, cursors[id] as Seq, log.visibleHead(user));
    }
    world.clients.add(this);
    world.onPresenceChange(user, others);
  }

  /** Whether the server can replay events after this cursor; if not, sends the reason. */
  #checkCursor(user: UserId, conversation: string, cursor: Seq): boolean {
    try {
      const log = this.#world.log(conversation, user);
      const head = log.visibleHead(user);
      if (cursor > head) throw new Refusal("bad_cursor", "the log ends before this cursor");
      if (head - cursor <= this.#world.limits.replay) return true;
      this.push({ type: "gap", conversation, after: cursor, head });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.push({ type: "error", ...error.failure, conversation });
    }
    return false;
  }

  #hasOtherConnections(): boolean {
    return [...this.#world.clients].some((listener) => listener !== this && listener.user === this.user);
  }
}

function unreadTotal(world: ServerState, user: UserId) {
  const logs = world.conversationsOf(user);
  const counts = logs.slice(0, MAX_COUNTED_CONVERSATIONS).map((log) => log.countUnread(user));
  return {
    messages: counts.reduce((sum, count) => sum + count, 0),
    conversations: counts.filter(Boolean).length,
    more: logs.length > MAX_COUNTED_CONVERSATIONS,
  };
}

/** The claims of a token. */
function claimsOf(token: string): Record<string, unknown> {
  const payload = (token.split(".")[1] as string).replaceAll("-", "+").replaceAll("_", "/");
  return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(payload), (c) => c.charCodeAt(0))));
}

/** The user of a `hello`: the named one, or that of the token. The token's signature is not checked. */
function userOf({ user, token }: { user?: UserId; token?: string }): UserId {
  if (token === undefined) {
    if (user === undefined) throw new Refusal("unauthorized", "neither a token nor a user");
    return user;
  }
  try {
    const { sub } = claimsOf(token);
    if (typeof sub === "string") return sub;
  } catch {
    // The text is no JWT, so it is refused below.
  }
  throw new Refusal("unauthorized", "the token is wrong");
}

function parseObject(data: string): Record<string, unknown> {
  try {
    const frame: unknown = JSON.parse(data);
    if (typeof frame === "object" && frame !== null && !Array.isArray(frame)) return frame as Record<string, unknown>;
  } catch {
    // The text is not JSON, so it is refused below.
  }
  throw new Refusal("bad_frame", "a frame is one JSON object");
}
