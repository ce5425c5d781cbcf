// The fields of each command, and their valid values.

import type { Command, Limits } from "../protocol.js";
import { isStored } from "../stored.js";
import { badField, Refusal, tooLarge } from "./refusal.js";

/** Returns the value as the server reads it; throws if it is invalid. */
type Check = (value: unknown, field: string, limits: Limits) => unknown;
type Fields = Record<string, { check: Check; optional: boolean }>;

const ID = /^[A-Za-z0-9][A-Za-z0-9._~+=|@-]{0,63}$/;
const CONTROL = /\p{Cc}/u;
const VISIBLE = /[^\p{White_Space}\p{Cf}\p{Cc}\p{Default_Ignorable_Code_Point}]/u;
const SURROGATE = /\p{Surrogate}/u;

const bytes = (text: string) => new TextEncoder().encode(text).length;

const required = (check: Check) => ({ check, optional: false });
const optional = (check: Check) => ({ check, optional: true });

const string: Check = (value, field) => {
  if (typeof value !== "string") throw badField(field, "a string");
  if (SURROGATE.test(value)) throw badField(field, "half of a surrogate pair");
  return value;
};

const matching =
  (pattern: RegExp, what: string): Check =>
  (value, field) => {
    if (typeof value !== "string" || !pattern.test(value)) throw badField(field, what);
    return value;
  };

/** Checks a text of at most `most` bytes. */
const short =
  (most: number, spaces = true): Check =>
  (value, field, limits) => {
    const text = string(value, field, limits) as string;
    if (!text || bytes(text) > most) throw badField(field, `1 to ${most} bytes`);
    if (CONTROL.test(text)) throw badField(field, "no control characters");
    if (!spaces && /\p{White_Space}/u.test(text)) throw badField(field, "no spaces");
    return text;
  };

const visible =
  (check: Check): Check =>
  (value, field, limits) => {
    if (!VISIBLE.test(check(value, field, limits) as string)) throw badField(field, "something that one can see");
    return value;
  };

const integer =
  (least: number, most = Number.MAX_SAFE_INTEGER): Check =>
  (value, field) => {
    if (!Number.isInteger(value) || (value as number) < least || (value as number) > most)
      throw badField(field, `an integer from ${least} to ${most}`);
    // Adding 0 turns -0 into 0.
    return (value as number) + 0;
  };

const user = matching(ID, "a user id");
const seq = integer(1);
const cursor = integer(0);
const limit = integer(-Number.MAX_SAFE_INTEGER);
const role = matching(/^(admin|member|reader)$/, "admin, member or reader");

const boolean: Check = (value, field) => {
  if (typeof value !== "boolean") throw badField(field, "true or false");
  return value;
};

const target: Check = (value, field) => {
  const [sign, name] = typeof value === "string" ? [value[0], value.slice(1)] : [];
  const ids = sign === "@" ? (name as string).split(":") : [name ?? ""];
  if (!(sign === "@" || sign === "#") || ids.length > 2 || !ids.every((id) => ID.test(id)))
    throw badField(field, "@bob, #general or a conversation id");
  if (ids.length === 2 && (ids[0] as string) > (ids[1] as string))
    throw badField(field, "the two users are in the order of their bytes");
  return value;
};

const room: Check = (value, field) => matching(ID, "a room id")(String(value).replace(/^#/, ""), field, {} as Limits);

const text: Check = (value, field, limits) => {
  const said = string(value, field, limits) as string;
  if (bytes(said) > limits.text) throw tooLarge(field, `at most ${limits.text} bytes`);
  if (said.includes("\0")) throw badField(field, "no U+0000");
  if (said && !VISIBLE.test(said)) throw badField(field, "something that one can see");
  return said;
};

const data: Check = (value, field, limits) => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw badField(field, "an object");
  const json = JSON.stringify(value);
  if (bytes(json) > limits.text) throw tooLarge(field, `at most ${limits.text} bytes`);
  if (json.includes("\\u0000")) throw badField(field, "no U+0000");
  return value;
};

const users =
  (most: "watch" | "create_members"): Check =>
  (value, field, limits) => {
    if (!Array.isArray(value)) throw badField(field, "a list of users");
    if (value.length > limits[most]) throw tooLarge(field, `at most ${limits[most]}`);
    return value.map((one, n) => user(one, `${field}[${n}]`, limits));
  };

const cursors: Check = (value, field, limits) => {
  if (typeof value !== "object" || value === null) throw badField(field, "an object");
  for (const [id, at] of Object.entries(value)) {
    target(id, `${field}.${id}`, limits);
    if (id[0] === "@" && !id.includes(":")) throw badField(`${field}.${id}`, "a conversation id");
    cursor(at, `${field}.${id}`, limits);
  }
  return value;
};

const conversation = required(target);
const content: Fields = { text: optional(text), data: optional(data) };
const page: Fields = { limit: optional(limit) };

const COMMANDS: Record<string, Fields> = {
  hello: {
    token: optional(string),
    user: optional(user),
    device: optional(short(64)),
    cursors: optional(cursors),
  },
  send: { to: required(target), ...content, key: optional(short(128)), reply_to: optional(seq) },
  edit: { conversation, target: required(seq), ...content },
  delete: { conversation, target: required(seq) },
  react: {
    conversation,
    target: required(seq),
    emoji: required(visible(short(64, false))),
    on: optional(boolean),
  },
  sync: { conversation, after: optional(cursor), ...page },
  history: { conversation, before: optional(seq), around: optional(seq), ...page },
  conversations: { before: optional(target), ...page },
  read: { conversation, upto: required(cursor) },
  received: { conversation, upto: required(cursor) },
  typing: { conversation },
  watch: { users: required(users("watch")) },
  create: {
    room: optional(room),
    title: optional(visible(short(200))),
    public: optional(boolean),
    members: optional(users("create_members")),
  },
  join: { conversation },
  leave: { conversation },
  invite: { conversation, user: required(user), role: optional(role) },
  remove: { conversation, user: required(user) },
  role: { conversation, user: required(user), role: required(role) },
  rename: { conversation, title: required(visible(short(200))) },
  members: { conversation, after: optional(user), ...page },
  ping: {},
};

/** The `id` that the answer repeats. */
export function parseId(id: unknown): { id?: string | number } {
  if (id === undefined) return {};
  if (typeof id === "string" && bytes(id) <= 64) return { id };
  if (Number.isSafeInteger(id)) return { id: id as number };
  throw badField("id", "at most 64 bytes, or an integer");
}

/** The number of a write and that of the write which it follows, if the frame has them. */
export function parseNumber(frame: Record<string, unknown>): { n: number; after: number } | undefined {
  const { type, n, after } = frame;
  if (!isStored(String(type)) || (n === undefined && after === undefined)) return undefined;
  if (n === undefined) throw badField("n", "`after` comes with it");
  if (after === undefined) throw badField("after", "`n` comes with it");
  const number = { n: seq(n, "n", {} as Limits) as number, after: cursor(after, "after", {} as Limits) as number };
  if (number.after >= number.n) throw badField("after", "less than `n`");
  return number;
}

/** Decodes and checks a command of a client. */
export function parse(frame: Record<string, unknown>, limits: Limits): Command {
  const { type, id: _, ...given } = frame;
  if (parseNumber(frame)) {
    delete given["n"];
    delete given["after"];
  }
  if (typeof type !== "string") throw new Refusal("bad_frame", "a frame has a `type`");
  const fields = Object.hasOwn(COMMANDS, type) ? COMMANDS[type] : undefined;
  if (!fields) throw new Refusal("unknown_type", `there is no command ${type}`);
  for (const name of Object.keys(given))
    if (!Object.hasOwn(fields, name)) throw badField(name, `\`${type}\` has no such field`);
  const parsed: Record<string, unknown> = { type };
  for (const [name, { check, optional }] of Object.entries(fields)) {
    const value = given[name];
    if (value !== undefined) parsed[name] = check(value, name, limits);
    else if (!optional) throw badField(name, `\`${type}\` needs it`);
  }
  if ((type === "send" || type === "edit") && !parsed["text"] && !parsed["data"])
    throw badField("text", "a message has a `text` that is not empty, or `data`, or both");
  if (parsed["before"] !== undefined && parsed["around"] !== undefined)
    throw badField("around", "not together with `before`");
  return parsed as unknown as Command;
}
