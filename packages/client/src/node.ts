// The entry point for Node. It contains a WebSocket library, because Node 20 has no WebSocket.

import { createRequire } from "node:module";
import { connect as connectWith } from "./index.js";
import type { Chat, ChatOptions } from "./types.js";

export * from "./index.js";

/** Connects to a Switchboard server, and reconnects after a lost connection. */
export function connect(url: string, options: ChatOptions): Chat {
  const WebSocket = options?.WebSocket ?? globalThis.WebSocket ?? createRequire(import.meta.url)("./ws.cjs").WebSocket;
  return connectWith(url, options && { ...options, WebSocket });
}
