// The app in a frame: the parent page posts the token, and the frame posts the unread count to it. The server restricts the
// parents by `frame-ancestors`; this code accepts messages from the parent window only.

import { readFragment } from "./fragment.js";
import type { AppHost, Identity, Theme } from "./host.js";
import { ownServer } from "./own-server.js";
import { MemoryNavigation } from "./navigation.svelte.js";
import { isExpired } from "./token.js";

const THEMES: readonly string[] = ["system", "light", "dark"];

export class FrameHost implements AppHost {
  readonly server = ownServer();
  readonly navigation: MemoryNavigation;
  readonly sidebar: boolean;
  readonly theme: Theme | undefined;
  readonly language: string | undefined;
  readonly ownsDocument = true;
  readonly identity: Identity;
  #token: string | undefined;
  #retry: (() => void) | undefined;
  #tokenRequests: ((token: string) => void)[] = [];

  constructor() {
    const query = new URLSearchParams(location.search);
    const theme = query.get("theme") ?? "";
    const { token, user } = readFragment(location.hash);
    this.navigation = new MemoryNavigation(query.get("conversation") ?? undefined);
    this.sidebar = query.get("sidebar") !== "0";
    this.theme = THEMES.includes(theme) ? (theme as Theme) : undefined;
    this.language = query.get("lang") ?? undefined;
    this.#token = token;
    this.identity = user && !token ? { user } : { token: () => this.#requestToken() };
    if (token) history.replaceState(null, "", location.pathname + location.search);
    addEventListener("message", (event) => {
      if (event.source !== window.parent || window.parent === window) return;
      const message = event.data as { type?: unknown; token?: unknown } | null;
      if (message?.type === "switchboard:token" && typeof message.token === "string") this.#acceptToken(message.token);
    });
  }

  reportUnread(count: number): void {
    this.#postToParent({ type: "switchboard:unread", count });
  }

  /** Requests another token from the parent, because the server refused this one. */
  refused(retry: () => void): void {
    this.#token = undefined;
    this.#retry = retry;
    this.#postToParent({ type: "switchboard:token-request" });
  }

  #acceptToken(token: string): void {
    this.#token = token;
    for (const resolve of this.#tokenRequests.splice(0)) resolve(token);
    this.#retry?.();
    this.#retry = undefined;
  }

  #requestToken(): string | Promise<string> {
    if (this.#token && !isExpired(this.#token)) return this.#token;
    this.#postToParent({ type: "switchboard:token-request" });
    return new Promise((resolve) => this.#tokenRequests.push(resolve));
  }

  #postToParent(message: object): void {
    // `*` is safe, because no message contains a secret, and the parent's origin is unknown until it posts a message.
    if (window.parent !== window) window.parent.postMessage(message, "*");
  }
}
