/**
 * The WebSocket address of a server: `https://chat.example`, or relative to the page.
 *
 * @throws TypeError if that is no URL
 */
export function socketAddress(url: string): string {
  // React Native's URL has no setters, so its text is changed.
  const { href } = new URL(url, globalThis.location?.href);
  return href.replace(/^http/, "ws").replace(/(\/v1\/ws)?\/?(\?[^#]*)?(#.*)?$/, "/v1/ws$2");
}
