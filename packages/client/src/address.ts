import { failure } from "./error.js";

/**
 * The WebSocket address of a server: `https://chat.example`, or relative to the page.
 *
 * @throws ChatError `invalid` if that is no URL
 */
export function socketAddress(url: string): string {
  let href = "";
  try {
    // React Native's URL has no setters, so its text is changed.
    ({ href } = new URL(url ?? "//", globalThis.location?.href));
  } catch {
    // No URL at all, or an address of another kind: the same to an app.
  }
  if (!/^(http|ws)s?:/.test(href)) throw failure("invalid", `no URL of a server: ${url}`);
  return href.replace(/^http/, "ws").replace(/(\/v1\/ws)?\/?(\?[^#]*)?(#.*)?$/, "/v1/ws$2");
}
