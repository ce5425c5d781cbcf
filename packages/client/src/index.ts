import { socketAddress } from "./address.js";
import { Switchboard } from "./chat.js";
import { localError } from "./error.js";
import type { Chat, ChatOptions } from "./types.js";

export { ChatError, UnauthorizedError } from "./error.js";
export type * from "./types.js";
export type { Edited, ErrorCode } from "./protocol.js";

/**
 * Connects to a Switchboard server, and reconnects after a lost connection.
 *
 * @param url the server, as `wss://chat.example` or `https://chat.example`; in a page, also relative to it
 * @throws ChatError `invalid` if `url` is no URL, or without options. Later failures are in `status`.
 */
export function connect(url: string, options: ChatOptions): Chat {
  if (!options) throw localError("invalid", "`connect` needs a `token` or a `user`");
  return new Switchboard(socketAddress(url), options);
}
