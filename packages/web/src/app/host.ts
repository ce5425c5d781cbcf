// What the app needs from its environment: the full page, a frame in another site's page, or the custom element.

import type { Navigation } from "./navigation.svelte.js";

export type Theme = "system" | "light" | "dark";

/** The user's credentials: a token, or on a `dev` server a name. */
export interface Identity {
  token?: string | (() => string | Promise<string>);
  user?: string;
}

/** A link with the credentials of another user than the one who is signed in. */
export interface Replacement {
  /** The users' ids, if the credentials name them. */
  readonly user: string | undefined;
  readonly before: string | undefined;
  accept(): void;
  refuse(): void;
}

export interface AppHost {
  /** The server's URL, as `http(s)://` or `ws(s)://`. */
  readonly server: string;
  readonly navigation: Navigation;
  /** Whether the list of conversations is shown beside the open one. */
  readonly sidebar: boolean;
  /** Set by the embedding page; if undefined, the user's own setting applies. */
  readonly theme: Theme | undefined;
  readonly language: string | undefined;
  readonly identity: Identity | undefined;
  /** Whether the app controls the whole document, including its title and icon. */
  readonly ownsDocument: boolean;
  /** Asks whether to sign in as another user; absent if there is no such question. */
  readonly replacement?: Replacement | undefined;
  /** Signs in by name and stores it; for `dev` servers. */
  signIn?(user: string): void;
  signOut?(): void;
  /** Handles that the server refused the token for good. The host calls `retry` to reconnect once it has a new token. */
  refused?(retry: () => void): void;
  /** Reports the total number of unread messages. */
  reportUnread(count: number): void;
}
