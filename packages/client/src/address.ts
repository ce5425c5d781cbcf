import { localError } from "./error.js";

/**
 * The WebSocket address of a server: `https://chat.example`, or relative to the page.
 *
 * @throws ChatError `invalid` if the text is no URL
 */
export function socketAddress(url: string): string {
  let href = "";
  try {
    // The URL of React Native has no setters, so the code below changes the text of the URL.
    ({ href } = new URL(url ?? "//", globalThis.location?.href));
  } catch {
    // If the text is no URL at all, the check below throws the same error as for a wrong scheme.
  }
  if (!/^(http|ws)s?:/.test(href)) throw localError("invalid", `no URL of a server: ${url}`);
  return href.replace(/^http/, "ws").replace(/(\/v1\/ws)?\/?(\?[^#]*)?(#.*)?$/, "/v1/ws$2");
}
