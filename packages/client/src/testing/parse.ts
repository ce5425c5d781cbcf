// The fields of each command, and their valid values.

import type { Command, Limits } from "../protocol.js";
import { storesEvent } from "../stored.js";
import { badField, Refusal, tooLarge } from "./refusal.js";

/** Returns the value as the server reads it; throws if it is invalid. */
type FieldCheck = (value: unknown, field: string, limits: Limits) => unknown;
type CommandFields = Record<string, { check: FieldCheck; optional: boolean }>;

const ID_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._~+=|@-]{0,63}$/;
const CONTROL_CHARACTER = /\p{Cc}/u;
const VISIBLE_CHARACTER = /[^\p{White_Space}\p{Cf}\p{Cc}\p{Default_Ignorable_Code_Point}]/u;
const SURROGATE = /\p{Surrogate}/u;

const utf8Length = (checkText: string) => new TextEncoder().encode(checkText).length;

const requiredField = (check: FieldCheck) => ({ check, optional: false });
const optionalField = (check: FieldCheck) => ({ check, optional: true });

const checkString: FieldCheck = (value, field) => {
  if (typeof value !== "string") throw badField(field, "a string");
  if (SURROGATE.test(value)) throw badField(field, "half of a surrogate pair");
  return value;
};

const checkPattern =
  (pattern: RegExp, what: string): FieldCheck =>
  (value, field) => {
    if (typeof value !== "string" || !pattern.test(value)) throw badField(field, what);
    return value;
  };

/** Checks a text of at most `most` bytes. */
const checkShortText =
  (most: number, spaces = true): FieldCheck =>
  (value, field, limits) => {
    const text = checkString(value, field, limits) as string;
    if (!text || utf8Length(text) > most) throw badField(field, `1 to ${most} bytes`);
    if (CONTROL_CHARACTER.test(text)) throw badField(field, "no control characters");
    if (!spaces && /\p{White_Space}/u.test(text)) throw badField(field, "no spaces");
    return text;
  };

const checkVisible =
  (check: FieldCheck): FieldCheck =>
  (value, field, limits) => {
    if (!VISIBLE_CHARACTER.test(check(value, field, limits) as string))
      throw badField(field, "something that one can see");
    return value;
  };

const checkInteger =
  (least: number, most = Number.MAX_SAFE_INTEGER): FieldCheck =>
  (value, field) => {
    if (!Number.isInteger(value) || (value as number) < least || (value as number) > most)
      throw badField(field, `an integer from ${least} to ${most}`);
    // Adding 0 turns -0 into 0.
    return (value as number) + 0;
  };

const checkUser = checkPattern(ID_PATTERN, "a user id");
const checkSeq = checkInteger(1);
const checkCursor = checkInteger(0);
const checkLimit = checkInteger(-Number.MAX_SAFE_INTEGER);
const checkRole = checkPattern(/^(admin|member|reader)$/, "admin, member or reader");

const checkBoolean: FieldCheck = (value, field) => {
  if (typeof value !== "boolean") throw badField(field, "true or false");
  return value;
};

const checkTarget: FieldCheck = (value, field) => {
  const [sign, name] = typeof value === "string" ? [value[0], value.slice(1)] : [];
  const ids = sign === "@" ? (name as string).split(":") : [name ?? ""];
  if (!(sign === "@" || sign === "#") || ids.length > 2 || !ids.every((id) => ID_PATTERN.test(id)))
    throw badField(field, "@bob, #general or a conversation id");
  if (ids.length === 2 && (ids[0] as string) > (ids[1] as string))
    throw badField(field, "the two users are in the order of their bytes");
  return value;
};

const checkRoomId: FieldCheck = (value, field) =>
  checkPattern(ID_PATTERN, "a room id")(String(value).replace(/^#/, ""), field, {} as Limits);

const text: FieldCheck = (value, field, limits) => {
  const checkedText = checkString(value, field, limits) as string;
  if (utf8Length(checkedText) > limits.text) throw tooLarge(field, `at most ${limits.text} bytes`);
  if (checkedText.includes("\0")) throw badField(field, "no U+0000");
  if (checkedText && !VISIBLE_CHARACTER.test(checkedText)) throw badField(field, "something that one can see");
  return checkedText;
};

const checkData: FieldCheck = (value, field, limits) => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw badField(field, "an object");
  const json = JSON.stringify(value);
  if (utf8Length(json) > limits.text) throw tooLarge(field, `at most ${limits.text} bytes`);
  if (json.includes("\\u0000")) throw badField(field, "no U+0000");
  return value;
};

const checkUsers =
  (most: "watch" | "create_members" | "follow"): FieldCheck =>
  (value, field, limits) => {
    if (!Array.isArray(value)) throw badField(field, "a list of users");
    if (value.length > limits[most]) throw tooLarge(field, `at most ${limits[most]}`);
    return value.map((one, n) => checkUser(one, `${field}[${n}]`, limits));
  };

const checkCursors: FieldCheck = (value, field, limits) => {
  if (typeof value !== "object" || value === null) throw badField(field, "an object");
  for (const [id, at] of Object.entries(value)) {
    checkTarget(id, `${field}.${id}`, limits);
    if (id[0] === "@" && !id.includes(":")) throw badField(`${field}.${id}`, "a conversation id");
    checkCursor(at, `${field}.${id}`, limits);
  }
  return value;
};

const orNull =
  (check: FieldCheck): FieldCheck =>
  (value, field, limits) =>
    value === null ? null : check(value, field, limits);

const checkQuery: FieldCheck = (value, field, limits) => {
  const length = utf8Length((checkString(value, field, limits) as string).trim());
  if (length < 2 || length > 200) throw badField(field, "2 to 200 bytes");
  return value;
};

const CONVERSATION_FIELD = requiredField(checkTarget);
const CONTENT_FIELDS: CommandFields = { text: optionalField(text), data: optionalField(checkData) };
const PAGE_FIELDS: CommandFields = { limit: optionalField(checkLimit) };

const COMMANDS: Record<string, CommandFields> = {
  hello: {
    token: optionalField(checkString),
    user: optionalField(checkUser),
    device: optionalField(checkShortText(64)),
    cursors: optionalField(checkCursors),
  },
  send: {
    to: requiredField(checkTarget),
    ...CONTENT_FIELDS,
    key: optionalField(checkShortText(128)),
    reply_to: optionalField(checkSeq),
  },
  edit: { conversation: CONVERSATION_FIELD, target: requiredField(checkSeq), ...CONTENT_FIELDS },
  delete: { conversation: CONVERSATION_FIELD, target: requiredField(checkSeq) },
  react: {
    conversation: CONVERSATION_FIELD,
    target: requiredField(checkSeq),
    emoji: requiredField(checkVisible(checkShortText(64, false))),
    on: optionalField(checkBoolean),
  },
  sync: { conversation: CONVERSATION_FIELD, after: optionalField(checkCursor), ...PAGE_FIELDS },
  history: {
    conversation: CONVERSATION_FIELD,
    before: optionalField(checkSeq),
    around: optionalField(checkSeq),
    ...PAGE_FIELDS,
  },
  conversations: { before: optionalField(checkTarget), ...PAGE_FIELDS },
  read: { conversation: CONVERSATION_FIELD, upto: requiredField(checkCursor) },
  received: { conversation: CONVERSATION_FIELD, upto: requiredField(checkCursor) },
  typing: { conversation: CONVERSATION_FIELD },
  watch: { users: requiredField(checkUsers("watch")) },
  create: {
    room: optionalField(checkRoomId),
    title: optionalField(checkVisible(checkShortText(200))),
    public: optionalField(checkBoolean),
    members: optionalField(checkUsers("create_members")),
  },
  join: { conversation: CONVERSATION_FIELD },
  leave: { conversation: CONVERSATION_FIELD },
  invite: { conversation: CONVERSATION_FIELD, user: requiredField(checkUser), role: optionalField(checkRole) },
  remove: { conversation: CONVERSATION_FIELD, user: requiredField(checkUser) },
  role: { conversation: CONVERSATION_FIELD, user: requiredField(checkUser), role: requiredField(checkRole) },
  rename: { conversation: CONVERSATION_FIELD, title: requiredField(checkVisible(checkShortText(200))) },
  members: { conversation: CONVERSATION_FIELD, after: optionalField(checkUser), ...PAGE_FIELDS },
  token: { token: requiredField(checkString) },
  profile: {
    name: optionalField(orNull(checkVisible(checkShortText(200)))),
    avatar: optionalField(
      orNull(checkPattern(/^(f_[\w-]{1,64}|https:\/\/\P{Cc}{1,2040})$/u, "a file, or an https: URL")),
    ),
    data: optionalField(orNull(checkData)),
  },
  users: { users: requiredField(checkUsers("follow")) },
  find_users: { query: requiredField(checkQuery), ...PAGE_FIELDS },
  ping: {},
};

/** The `id` that the answer repeats. */
export function parseId(id: unknown): { id?: string | number } {
  if (id === undefined) return {};
  if (typeof id === "string" && utf8Length(id) <= 64) return { id };
  if (Number.isSafeInteger(id)) return { id: id as number };
  throw badField("id", "at most 64 bytes, or an integer");
}

/** The number of a write and that of the write which it follows, if the frame has them. */
export function parseWriteNumber(frame: Record<string, unknown>): { n: number; after: number } | undefined {
  const { type, n, after } = frame;
  if (!storesEvent(String(type)) || (n === undefined && after === undefined)) return undefined;
  if (n === undefined) throw badField("n", "`after` comes with it");
  if (after === undefined) throw badField("after", "`n` comes with it");
  const writeNumber = {
    n: checkSeq(n, "n", {} as Limits) as number,
    after: checkCursor(after, "after", {} as Limits) as number,
  };
  if (writeNumber.after >= writeNumber.n) throw badField("after", "less than `n`");
  return writeNumber;
}

/** Decodes and checks a command of a client. */
export function parseCommand(frame: Record<string, unknown>, limits: Limits): Command {
  const { type, id: _, ...given } = frame;
  if (parseWriteNumber(frame)) {
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
