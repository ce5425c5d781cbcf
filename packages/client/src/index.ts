import { Switchboard } from "./chat.js";
import type { Chat, ChatOptions } from "./types.js";

export { ChatError, UnauthorizedError } from "./error.js";
export type * from "./types.js";
export type { Edited, ErrorCode } from "./protocol.js";

/**
 * Connects to a Switchboard server, and stays connected.
 *
 * @param url the server, as `wss://chat.example` or `https://chat.example`; in a page, also relative to it
 * @throws TypeError if that is no URL. Whatever fails later is told by `status`.
 */
export function connect(url: string, options: ChatOptions): Chat {
  const address = new URL(url, globalThis.location?.href);
  address.protocol = address.protocol.replace("http", "ws");
  if (!address.pathname.endsWith("/v1/ws")) address.pathname = `${address.pathname.replace(/\/$/, "")}/v1/ws`;
  address.hash = "";
  return new Switchboard(address.href, options);
}
