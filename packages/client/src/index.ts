import { socketAddress } from "./address.js";
import { Switchboard } from "./chat.js";
import type { Chat, ChatOptions } from "./types.js";

export { ChatError, UnauthorizedError } from "./error.js";
export type * from "./types.js";
export type { Edited, ErrorCode } from "./protocol.js";

/**
 * Connects to a Switchboard server, and stays connected.
 *
 * @param url the server, as `wss://chat.example` or `https://chat.example`; in a page, also relative to it
 * @throws TypeError if that is no URL. What fails later, `status` says.
 */
export function connect(url: string, options: ChatOptions): Chat {
  return new Switchboard(socketAddress(url), options);
}
