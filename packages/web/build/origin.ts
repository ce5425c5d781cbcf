// The origin of requests that the proxy of `npm run dev` passes on.

import type { ClientRequest, IncomingMessage } from "node:http";

/** Replaces the origin of requests that come from the development page itself, and of no others. */
export function rewriteOriginTo(server: string): (out: ClientRequest, incoming: IncomingMessage) => void {
  return (out, incoming) => {
    const { origin, host } = incoming.headers;
    if (origin !== undefined && origin === `http://${host}`) out.setHeader("origin", server);
  };
}
