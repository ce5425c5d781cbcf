/**
 * The WebSocket address of a server: `https://chat.example`, or relative to the page.
 *
 * @throws TypeError if that is no URL
 */
export function socketAddress(url: string): string {
  // React Native's URL has no setters, so its text is taken apart.
  const { href } = new URL(url, globalThis.location?.href);
  const [, start = "", query = ""] = /^([^?#]*)(\?[^#]*)?/.exec(href) ?? [];
  const path = start.replace(/^http/, "ws").replace(/\/$/, "");
  return (path.endsWith("/v1/ws") ? path : `${path}/v1/ws`) + query;
}
