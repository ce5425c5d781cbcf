// The fake server's commands that append an event to a log, except `send`.

import type { Command, Role, Seq, StoredBody, UserId } from "../protocol.js";
import { type Body, Log, type Membership } from "./log.js";
import { badField, forbidden, notFound, Refusal, tooLarge } from "./refusal.js";
import type { Listener, World } from "./world.js";

type Said<T extends Command["type"]> = Extract<Command, { type: T }>;
type Append = (log: Log, body: Body, before?: ReadonlySet<UserId>, back?: Seq) => StoredBody;

export function change(world: World, user: UserId, command: Command, by?: Listener): StoredBody {
  const append: Append = (log, body, before, back) => world.append(log, user, body, by, before, back);
  switch (command.type) {
    case "edit":
      return edit(world, user, command, append);
    case "delete":
      return erase(world, user, command, append);
    case "react":
      return react(world, user, command, append);
    case "create":
      return create(world, user, command, append);
    case "join":
      return join(world, user, command, append);
    case "leave":
      return leave(world, user, command, append);
    case "invite":
      return invite(world, user, command, append);
    case "remove":
      return remove(world, user, command, append);
    case "role":
      return setRole(world, user, command, append);
    case "rename": {
      const room = admins(world.log(command.conversation, user), user);
      return append(room, { type: "rename", title: command.title });
    }
    default:
      throw new Refusal("unknown_type", `\`${command.type}\` stores nothing`);
  }
}

/** The message that a command is about. Throws if it was deleted. */
function living(log: Log, seq: Seq) {
  const message = log.message(seq);
  if (message.deleted) throw notFound();
  return message;
}

function edit(world: World, user: UserId, command: Said<"edit">, append: Append): StoredBody {
  const log = world.log(command.conversation, user);
  world.checkWriter(log, user);
  if (living(log, command.target).from !== user) throw forbidden("only its author may edit a message");
  const edits = log.events.filter((event) => event.type === "edit" && event.target === command.target).length;
  if (edits >= world.limits.edits) throw tooLarge("target", `a message has at most ${world.limits.edits} edits`);
  const { target, text, data } = command;
  return append(log, { type: "edit", target, ...(text && { text }), ...(data !== undefined && { data }) });
}

function erase(world: World, user: UserId, { conversation, target }: Said<"delete">, append: Append): StoredBody {
  const log = world.log(conversation, user);
  world.checkWriter(log, user);
  const message = log.message(target);
  if (message.from !== user && log.member(user).role !== "admin")
    throw forbidden("only its author or an admin of the room may delete a message");
  if (message.deleted) {
    const first = log.events.findIndex((event) => event.type === "delete" && event.target === target);
    return world.repeated(log, first + 1);
  }
  return append(log, { type: "delete", target });
}

function react(world: World, user: UserId, command: Said<"react">, append: Append): StoredBody {
  const { conversation, target, on = true } = command;
  const log = world.log(conversation, user);
  world.checkWriter(log, user);
  const message = living(log, target);
  // An emoji with U+FE0F and the same emoji without it are one reaction.
  const emoji = command.emoji.replaceAll("\u{fe0f}", "");
  const before = log.reaction(target, emoji, user);
  if (before?.on === on) return world.repeated(log, before.seq);
  if (!before && !on) throw notFound();
  const count = Object.values(message.reactions ?? {}).reduce((sum, users) => sum + users.length, 0);
  if (on && count >= world.limits.reactions)
    throw tooLarge("emoji", `a message has at most ${world.limits.reactions} reactions`);
  return append(log, { type: "react", target, emoji, on });
}

function create(world: World, user: UserId, command: Said<"create">, append: Append): StoredBody {
  const { title, public: open = false } = command;
  const id = `#${command.room ?? world.name()}`;
  const members = [...new Set(command.members)].filter((member) => member !== user).sort();
  const body: Body = { type: "create", ...(title !== undefined && { title }), public: open, members };
  const existing = world.logs.get(id);
  if (existing) {
    const {
      conversation: _,
      seq: _seq,
      at: _at,
      from,
      ...first
    } = existing.events[0] as Body & { from: UserId } & {
      [field in "conversation" | "seq" | "at"]: unknown;
    };
    const same = from === user && JSON.stringify(sorted(first)) === JSON.stringify(sorted(body));
    if (!same) throw new Refusal("already_exists", "a room of this name exists; choose another");
    return world.repeated(existing, 1);
  }
  const log = new Log(id, open, title);
  world.logs.set(id, log);
  log.enter(user, "admin");
  for (const member of members) log.enter(member, "member");
  return append(log, body);
}

const sorted = (body: object) => Object.entries(body).sort(([a], [b]) => (a < b ? -1 : 1));

function join(world: World, user: UserId, { conversation }: Said<"join">, append: Append): StoredBody {
  const log = world.log(conversation, user);
  const earlier = log.memberships.get(user);
  if (earlier && earlier.until === undefined) {
    checkRoom(log);
    return world.repeated(log, earlier.since);
  }
  if (!log.public) throw notFound();
  const role = log.members.length === 0 ? "admin" : kept("member", earlier);
  log.enter(user, role);
  return append(log, { type: "join", ...(role !== "member" && { role }) }, undefined, earlier?.until);
}

function leave(world: World, user: UserId, { conversation }: Said<"leave">, append: Append): StoredBody {
  const log = world.log(conversation, user);
  const { until } = log.memberships.get(user) ?? {};
  if (until !== undefined) return world.repeated(log, until);
  const member = log.member(user);
  checkRoom(log);
  checkAdminRemains(log, member, true);
  return go(log, user, member, () => append(log, { type: "leave" }, new Set([user])));
}

function invite(world: World, user: UserId, command: Said<"invite">, append: Append): StoredBody {
  const log = world.log(command.conversation, user);
  const inviter = log.member(user);
  checkRoom(log);
  const wanted = command.role ?? "member";
  if (log.public && wanted === "member") world.checkWriter(log, user);
  else admins(log, user);
  const earlier = log.memberships.get(command.user);
  if (earlier && earlier.until === undefined) return world.repeated(log, earlier.since);
  const role = inviter.role === "admin" ? wanted : kept(wanted, earlier);
  log.enter(command.user, role);
  return append(log, { type: "invite", user: command.user, role }, undefined, earlier?.until);
}

function remove(world: World, user: UserId, command: Said<"remove">, append: Append): StoredBody {
  const log = admins(world.log(command.conversation, user), user);
  if (command.user === user) throw badField("user", "to go yourself, say `leave`");
  const member = log.memberships.get(command.user);
  if (!member) throw notFound();
  if (member.until !== undefined) return world.repeated(log, member.until);
  const body: Body = { type: "remove", user: command.user };
  return go(log, command.user, member, () => append(log, body, new Set([command.user])));
}

function setRole(world: World, user: UserId, command: Said<"role">, append: Append): StoredBody {
  const log = admins(world.log(command.conversation, user), user);
  const member = log.member(command.user);
  if (command.role !== "admin") checkAdminRemains(log, member, false);
  member.role = command.role;
  return append(log, { type: "role", user: command.user, role: command.role });
}

/** Ends a membership: `append` stores the event with which the user leaves. */
function go(log: Log, user: UserId, member: Membership, append: () => StoredBody): StoredBody {
  log.memberships.set(user, { ...member, until: log.head + 1 });
  return append();
}

function checkRoom(log: Log): void {
  if (!log.isRoom) throw forbidden("a direct conversation always has its two people and no title");
}

/** Returns the log; throws unless it is that of a room and `user` is an admin of the room. */
function admins(log: Log, user: UserId): Log {
  const { role } = log.member(user);
  checkRoom(log);
  if (role !== "admin") throw forbidden("only an admin of the room may do that");
  return log;
}

function checkAdminRemains(log: Log, member: Membership, goes: boolean): void {
  const alone = goes && log.members.length === 1;
  const admins = log.members.filter(([, { role }]) => role === "admin").length;
  if (member.role === "admin" && admins === 1 && !alone)
    throw forbidden("you are the room's only admin: make another member `admin` first");
}

/** The role of a user who joins: a former reader stays a reader. */
const kept = (wanted: Role, earlier?: Membership): Role => (earlier?.role === "reader" ? "reader" : wanted);
