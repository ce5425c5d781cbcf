// What the page offers, by the user's permissions. The server checks each command again.

import type { ChatPermissions } from "@switchboard/client";

/** A server that does not say what the user may do permits what it always did. */
type Known = ChatPermissions | undefined;

/**
 * Whether the user may be the first to write to `user`, or invite them. The page does not know all users with whom the user
 * shares a conversation, so for `shared` only the server's answer tells.
 */
export const mayContact = (permissions: Known, user: string): boolean =>
  !permissions ||
  permissions.contact.some((entry) => entry === "all" || entry === "shared" || matchesPattern(entry.split("*"), user));

/** Whether the user may start any conversation: with a user, in a new room, or in a public room. */
export const mayStart = (permissions: Known): boolean =>
  !permissions || permissions.createRooms || permissions.publicRooms || permissions.contact.length > 0;

/** Whether `text` has the parts of a pattern in their order, with any characters between them. */
function matchesPattern([first = "", ...parts]: string[], text: string): boolean {
  const last = parts.pop();
  if (last === undefined) return text === first;
  if (!text.startsWith(first) || !text.endsWith(last) || text.length < first.length + last.length) return false;
  let rest = text.slice(first.length, text.length - last.length);
  return parts.every((part) => {
    const at = rest.indexOf(part);
    rest = rest.slice(at + part.length);
    return at >= 0;
  });
}
