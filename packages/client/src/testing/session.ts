// One connection: `hello`, then commands, each answered before the next is read.

import type { Command, Hello, Limits, Seq, UserId, Welcome } from "../protocol.js";
import { parse, parseId, parseNumber } from "./parse.js";
import { badField, notFound, Refusal } from "./refusal.js";
import type { Listener, World } from "./world.js";

/** The most conversations that `welcome.unread` counts. */
const COUNTED = 200;

interface Wire {
  push(frame: object): void;
  end(code: number, reason: string): void;
}

/** Answers a command of a user. `by`: the connection that sent it; `undefined` for a command over HTTP. */
export function answer(world: World, user: UserId, command: Command, by?: Listener): object {
  const held = (limit = Math.floor(world.limits.page / 2)) => Math.min(Math.max(limit, 1), world.limits.page);
  switch (command.type) {
    case "sync":
      return world.log(command.conversation, user).page(user, command.after ?? 0, held(command.limit));
    case "history": {
      const log = world.log(command.conversation, user);
      const { around } = command as { around?: Seq };
      if (around !== undefined) return log.around(user, held(command.limit), around);
      return log.history(user, held(command.limit), command.before);
    }
    case "conversations":
      return inboxPage(world, user, held(command.limit), command.before);
    case "members": {
      const log = world.log(command.conversation, user);
      log.member(user);
      const all = log.listed();
      const first = command.after === undefined ? 0 : all.findIndex((member) => member.user === command.after) + 1;
      if (command.after !== undefined && !first) throw new Refusal("bad_field", "after: never a member", "after");
      const members = all.slice(first, first + held(command.limit));
      return { conversation: log.id, members, more: first + members.length < all.length };
    }
    case "read":
    case "received":
      return world.move(user, command, by);
    case "typing":
      world.typing(user, command.conversation, by);
      return {};
    default:
      return world.store(user, command, by);
  }
}

function inboxPage(world: World, user: UserId, limit: number, before?: string) {
  const logs = world.inbox(user);
  const first = before === undefined ? 0 : logs.findIndex(({ id }) => id === world.canonical(before, user)) + 1;
  if (before !== undefined && !first) throw notFound();
  const page = logs.slice(first, first + limit);
  return { conversations: page.map((log) => log.summary(user)), more: first + page.length < logs.length };
}

export class Session implements Listener {
  user: UserId | undefined;
  watched: ReadonlySet<UserId> = new Set();
  #world: World;
  #wire: Wire;
  #ended = false;
  /** The number of the last stored write, and that of the last write that was stored or refused for good. */
  #stored = 0;
  #settled = 0;

  constructor(world: World, wire: Wire) {
    this.#world = world;
    this.#wire = wire;
  }

  push(frame: object): void {
    this.#wire.push(frame);
  }

  receive(data: string): void {
    if (this.#ended) return;
    const limits: Limits = this.#world.limits;
    if (data.length > (this.user === undefined ? limits.hello_frame : limits.frame))
      return this.#end(1009, "too large");
    let id: { id?: string | number } = {};
    let tried = false;
    let number: { n: number; after: number } | undefined;
    try {
      const frame = object(data);
      id = parseId(frame["id"]);
      const known = this.user;
      tried = frame["type"] === "hello";
      if (known === undefined) return this.#hello(frame);
      number = this.#inTurn(parseNumber(frame));
      const command = parse(frame, limits);
      if (command.type === "hello") throw new Refusal("bad_frame", "`hello` was said");
      if (command.type === "ping") return this.push({ type: "pong", ...id });
      if (command.type === "watch") return this.#watch(command.users, id);
      const body = answer(this.#world, known, command, this);
      this.#stored = number?.n ?? this.#stored;
      this.#settled = Math.max(this.#settled, this.#stored);
      this.push({ type: "ok", ...id, ...body });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      // This fake server refuses no write as retryable, so a refused write is never sent again.
      this.#settled = Math.max(this.#settled, number?.n ?? 0);
      this.push({ type: "error", ...id, ...error.failure });
      // If the first frame is refused, the connection is closed.
      if (this.user === undefined) this.#end(error.code === "unauthorized" && tried ? 4501 : 1008, error.message);
    }
  }

  /** Refuses a write if the write before it was neither stored nor refused for good. */
  #inTurn(number: { n: number; after: number } | undefined) {
    if (number && number.after > this.#settled)
      throw new Refusal("unavailable", `write ${number.after}, which this one follows, was not stored`);
    if (number && number.n <= this.#stored) throw badField("n", `write ${this.#stored} is stored`);
    return number;
  }

  end(): void {
    if (!this.#world.listeners.delete(this) || this.user === undefined) return;
    this.#world.presenceChanged(this.user, this.#others());
  }

  #end(code: number, reason: string): void {
    this.#ended = true;
    this.#wire.end(code, reason);
  }

  #watch(users: UserId[], id: object): void {
    this.#world.watch(this, users);
    this.watched = new Set(users);
    this.push({ type: "ok", ...id });
  }

  #hello(frame: Record<string, unknown>): void {
    // If the first frame is not `hello`, it is refused without checking its fields.
    if (frame["type"] !== "hello") throw new Refusal("unauthorized", "the first frame is `hello`");
    const hello = parse(frame, this.#world.limits) as { user?: UserId } & Hello;
    this.#welcome(userOf(hello), hello.cursors ?? {});
  }

  #welcome(user: UserId, cursors: Record<string, Seq>): void {
    const world = this.#world;
    this.user = user;
    const others = this.#others();
    const page = inboxPage(world, user, Math.floor(world.limits.page / 2));
    const welcome: Welcome & { unread: object } = {
      user,
      connection: world.name(),
      server: "switchboard/fake",
      features: ["numbers"],
      limits: world.limits,
      ...page,
      unread: unread(world, user),
    };
    this.push({ type: "welcome", ...welcome });
    const followed = Object.keys(cursors)
      .sort()
      .filter((id) => this.#checkCursor(user, id, cursors[id] as Seq));
    for (const id of followed) {
      const log = world.log(id, user);
      world.replay(this, log, cursors[id] as Seq, log.visible(user));
    }
    world.listeners.add(this);
    world.presenceChanged(user, others);
  }

  /** Whether the server can replay events after this cursor; if not, sends the reason. */
  #checkCursor(user: UserId, conversation: string, cursor: Seq): boolean {
    try {
      const log = this.#world.log(conversation, user);
      const head = log.visible(user);
      if (cursor > head) throw new Refusal("bad_cursor", "the log ends before this cursor");
      if (head - cursor <= this.#world.limits.replay) return true;
      this.push({ type: "gap", conversation, after: cursor, head });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.push({ type: "error", ...error.failure, conversation });
    }
    return false;
  }

  #others(): boolean {
    return [...this.#world.listeners].some((listener) => listener !== this && listener.user === this.user);
  }
}

function unread(world: World, user: UserId) {
  const logs = world.inbox(user);
  const counts = logs.slice(0, COUNTED).map((log) => log.unread(user));
  return {
    messages: counts.reduce((sum, count) => sum + count, 0),
    conversations: counts.filter(Boolean).length,
    more: logs.length > COUNTED,
  };
}

/** The user of a `hello`: the named one, or that of the token. The token's signature is not checked. */
function userOf({ user, token }: { user?: UserId; token?: string }): UserId {
  if (token === undefined) {
    if (user === undefined) throw new Refusal("unauthorized", "neither a token nor a user");
    return user;
  }
  try {
    const payload = (token.split(".")[1] as string).replaceAll("-", "+").replaceAll("_", "/");
    const { sub } = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(payload), (c) => c.charCodeAt(0))));
    if (typeof sub === "string") return sub;
  } catch {
    // The text is no JWT, so it is refused below.
  }
  throw new Refusal("unauthorized", "the token is wrong");
}

function object(data: string): Record<string, unknown> {
  try {
    const frame: unknown = JSON.parse(data);
    if (typeof frame === "object" && frame !== null && !Array.isArray(frame)) return frame as Record<string, unknown>;
  } catch {
    // The text is not JSON, so it is refused below.
  }
  throw new Refusal("bad_frame", "a frame is one JSON object");
}
