// The names of conversations: the grammar of docs/protocol.md, and the id for each name.

import { localError } from "./error.js";
import type { UserId } from "./protocol.js";

const ID_PATTERN = "[A-Za-z0-9][A-Za-z0-9._~+=|@-]{0,63}";
const NAME_PATTERN = new RegExp(`^(?:#${ID_PATTERN}|@(${ID_PATTERN})(?::(${ID_PATTERN}))?)$`);

/** The id of the conversation that `name` means for the user `me`. While `me` is not known, `@bob` stays as it is. */
export function conversationId(name: string, me: UserId | undefined): string {
  if (!me || name[0] !== "@" || name.includes(":")) return name;
  const other = name.slice(1);
  return me < other ? `@${me}:${other}` : `@${other}:${me}`;
}

/** The two users of a direct conversation. */
export const usersOfDirect = (id: string): string[] => (id[0] === "@" ? id.slice(1).split(":") : []);

/** Throws `invalid` if `name` is not the name of a conversation, or is that of a direct conversation of two other users. */
export function checkName(name: unknown, me: UserId | undefined): asserts name is string {
  const text = String(name);
  const parts = typeof name === "string" && NAME_PATTERN.exec(name);
  if (!parts) throw localError("invalid", `${text} is no conversation: write #room, @user or @alice:bob`);
  const [, first, second] = parts;
  if (!first || !second) return;
  if (first > second) throw localError("invalid", `${text} is no conversation: it is @${second}:${first}`);
  if (me && me !== first && me !== second) throw localError("invalid", `${text} is a conversation of two others`);
}
