// The fake server's commands that append an event to a log, except `send`.

import type { Command, Role, Seq, StoredBody, UserId } from "../protocol.js";
import { type EventBody, ConversationLog, type Membership } from "./log.js";
import { badField, forbidden, notFound, notPermitted, Refusal, tooLarge } from "./refusal.js";
import type { ConnectedClient, ServerState } from "./world.js";

type CommandOf<T extends Command["type"]> = Extract<Command, { type: T }>;
type AppendEvent = (log: ConversationLog, body: EventBody, before?: ReadonlySet<UserId>, back?: Seq) => StoredBody;

export function executeChange(world: ServerState, user: UserId, command: Command, by?: ConnectedClient): StoredBody {
  const append: AppendEvent = (log, body, before, back) => world.appendEvent(log, user, body, by, before, back);
  switch (command.type) {
    case "edit":
      return editMessage(world, user, command, append);
    case "delete":
      return deleteMessage(world, user, command, append);
    case "react":
      return reactToMessage(world, user, command, append);
    case "create":
      return createRoom(world, user, command, append);
    case "join":
      return joinRoom(world, user, command, append);
    case "leave":
      return leaveRoom(world, user, command, append);
    case "invite":
      return inviteUser(world, user, command, append);
    case "remove":
      return removeUser(world, user, command, append);
    case "role":
      return setRole(world, user, command, append);
    case "rename": {
      const room = checkAdmin(world.log(command.conversation, user), user);
      return append(room, { type: "rename", title: command.title });
    }
    default:
      throw new Refusal("unknown_type", `\`${command.type}\` stores nothing`);
  }
}

/** The message that a command is about. Throws if it was deleted. */
function undeletedMessage(log: ConversationLog, seq: Seq) {
  const message = log.checkedMessage(seq);
  if (message.deleted) throw notFound();
  return message;
}

function editMessage(world: ServerState, user: UserId, command: CommandOf<"edit">, append: AppendEvent): StoredBody {
  const log = world.log(command.conversation, user);
  world.checkWriter(log, user);
  if (undeletedMessage(log, command.target).from !== user) throw forbidden("only its author may edit a message");
  const edits = log.events.filter((event) => event.type === "edit" && event.target === command.target).length;
  if (edits >= world.limits.edits) throw tooLarge("target", `a message has at most ${world.limits.edits} edits`);
  const { target, text, data } = command;
  return append(log, { type: "edit", target, ...(text && { text }), ...(data !== undefined && { data }) });
}

function deleteMessage(
  world: ServerState,
  user: UserId,
  { conversation, target }: CommandOf<"delete">,
  append: AppendEvent,
): StoredBody {
  const log = world.log(conversation, user);
  world.checkWriter(log, user);
  const message = log.checkedMessage(target);
  if (message.from !== user && log.checkedMembership(user).role !== "admin")
    throw forbidden("only its author or an admin of the room may delete a message");
  if (message.deleted) {
    const first = log.events.findIndex((event) => event.type === "delete" && event.target === target);
    return world.duplicateOf(log, first + 1);
  }
  return append(log, { type: "delete", target });
}

function reactToMessage(
  world: ServerState,
  user: UserId,
  command: CommandOf<"react">,
  append: AppendEvent,
): StoredBody {
  const { conversation, target, on = true } = command;
  const log = world.log(conversation, user);
  world.checkWriter(log, user);
  const message = undeletedMessage(log, target);
  // An emoji with U+FE0F and the same emoji without it are one reaction.
  const emoji = command.emoji.replaceAll("\u{fe0f}", "");
  const before = log.lastReaction(target, emoji, user);
  if (before?.isSet === on) return world.duplicateOf(log, before.seq);
  if (!before && !on) throw notFound();
  const count = Object.values(message.reactions ?? {}).reduce((sum, users) => sum + users.length, 0);
  if (on && count >= world.limits.reactions)
    throw tooLarge("emoji", `a message has at most ${world.limits.reactions} reactions`);
  return append(log, { type: "react", target, emoji, on });
}

function createRoom(world: ServerState, user: UserId, command: CommandOf<"create">, append: AppendEvent): StoredBody {
  const { title, public: open = false } = command;
  if (!world.permissions.create_rooms) throw notPermitted("create_rooms");
  if (open && !world.permissions.public_rooms) throw notPermitted("public_rooms");
  const id = `#${command.room ?? world.makeName()}`;
  const members = [...new Set(command.members)].filter((member) => member !== user).sort();
  const body: EventBody = { type: "create", ...(title !== undefined && { title }), public: open, members };
  const existing = world.logs.get(id);
  if (existing) {
    const {
      conversation: _,
      seq: _seq,
      at: _at,
      from,
      ...first
    } = existing.events[0] as EventBody & { from: UserId } & {
      [field in "conversation" | "seq" | "at"]: unknown;
    };
    const isSameRequest = from === user && JSON.stringify(sortedFields(first)) === JSON.stringify(sortedFields(body));
    if (!isSameRequest) throw new Refusal("already_exists", "a room of this name exists; choose another");
    return world.duplicateOf(existing, 1);
  }
  const log = new ConversationLog(id, open, title);
  world.logs.set(id, log);
  log.addMember(user, "admin");
  for (const member of members) log.addMember(member, "member");
  return append(log, body);
}

const sortedFields = (body: object) => Object.entries(body).sort(([a], [b]) => (a < b ? -1 : 1));

function joinRoom(
  world: ServerState,
  user: UserId,
  { conversation }: CommandOf<"join">,
  append: AppendEvent,
): StoredBody {
  const log = world.log(conversation, user);
  const earlierMembership = log.memberships.get(user);
  if (earlierMembership && earlierMembership.leaveSeq === undefined) {
    checkIsRoom(log);
    return world.duplicateOf(log, earlierMembership.joinSeq);
  }
  if (!world.permissions.public_rooms) throw notPermitted("public_rooms");
  if (!log.public) throw notFound();
  const role = log.members.length === 0 ? "admin" : roleOfJoiner("member", earlierMembership);
  log.addMember(user, role);
  return append(log, { type: "join", ...(role !== "member" && { role }) }, undefined, earlierMembership?.leaveSeq);
}

function leaveRoom(
  world: ServerState,
  user: UserId,
  { conversation }: CommandOf<"leave">,
  append: AppendEvent,
): StoredBody {
  const log = world.log(conversation, user);
  const { leaveSeq } = log.memberships.get(user) ?? {};
  if (leaveSeq !== undefined) return world.duplicateOf(log, leaveSeq);
  const member = log.checkedMembership(user);
  checkIsRoom(log);
  checkAdminRemains(log, member, true);
  return endMembership(log, user, member, () => append(log, { type: "leave" }, new Set([user])));
}

function inviteUser(world: ServerState, user: UserId, command: CommandOf<"invite">, append: AppendEvent): StoredBody {
  const log = world.log(command.conversation, user);
  const inviter = log.checkedMembership(user);
  checkIsRoom(log);
  const wantedRole = command.role ?? "member";
  if (log.public && wantedRole === "member") world.checkWriter(log, user);
  else checkAdmin(log, user);
  const earlierMembership = log.memberships.get(command.user);
  if (earlierMembership && earlierMembership.leaveSeq === undefined)
    return world.duplicateOf(log, earlierMembership.joinSeq);
  const role = inviter.role === "admin" ? wantedRole : roleOfJoiner(wantedRole, earlierMembership);
  log.addMember(command.user, role);
  return append(log, { type: "invite", user: command.user, role }, undefined, earlierMembership?.leaveSeq);
}

function removeUser(world: ServerState, user: UserId, command: CommandOf<"remove">, append: AppendEvent): StoredBody {
  const log = checkAdmin(world.log(command.conversation, user), user);
  if (command.user === user) throw badField("user", "to go yourself, say `leave`");
  const member = log.memberships.get(command.user);
  if (!member) throw notFound();
  if (member.leaveSeq !== undefined) return world.duplicateOf(log, member.leaveSeq);
  const body: EventBody = { type: "remove", user: command.user };
  return endMembership(log, command.user, member, () => append(log, body, new Set([command.user])));
}

function setRole(world: ServerState, user: UserId, command: CommandOf<"role">, append: AppendEvent): StoredBody {
  const log = checkAdmin(world.log(command.conversation, user), user);
  const member = log.checkedMembership(command.user);
  if (command.role !== "admin") checkAdminRemains(log, member, false);
  member.role = command.role;
  return append(log, { type: "role", user: command.user, role: command.role });
}

/** Ends a membership: `append` stores the event with which the user leaves. */
function endMembership(log: ConversationLog, user: UserId, member: Membership, append: () => StoredBody): StoredBody {
  log.memberships.set(user, { ...member, leaveSeq: log.head + 1 });
  return append();
}

function checkIsRoom(log: ConversationLog): void {
  if (!log.isRoom) throw forbidden("a direct conversation always has its two people and no title");
}

/** Returns the log; throws unless it is that of a room and `user` is an admin of the room. */
function checkAdmin(log: ConversationLog, user: UserId): ConversationLog {
  const { role } = log.checkedMembership(user);
  checkIsRoom(log);
  if (role !== "admin") throw forbidden("only an admin of the room may do that");
  return log;
}

function checkAdminRemains(log: ConversationLog, member: Membership, goes: boolean): void {
  const isLastMember = goes && log.members.length === 1;
  const admins = log.members.filter(([, { role }]) => role === "admin").length;
  if (member.role === "admin" && admins === 1 && !isLastMember)
    throw forbidden("you are the room's only admin: make another member `admin` first");
}

/** The role of a user who joins: a former reader stays a reader. */
const roleOfJoiner = (wanted: Role, earlier?: Membership): Role => (earlier?.role === "reader" ? "reader" : wanted);
