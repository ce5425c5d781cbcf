// What the app needs of where it runs. There are three such places: the page, a frame in somebody's page, and the custom
// element.

import type { Place } from "./place.svelte.js";

export type Theme = "system" | "light" | "dark";

/** Who one is: a token, or on a `dev` server a name. */
export interface Identity {
  token?: string | (() => string | Promise<string>);
  user?: string;
}

export interface Host {
  /** Where the server is, as `http(s)://` or `ws(s)://`. */
  readonly server: string;
  readonly place: Place;
  /** Whether the list of conversations is shown beside the open one. */
  readonly sidebar: boolean;
  /** Decided by whoever embeds the app; otherwise the person's own setting counts. */
  readonly theme: Theme | undefined;
  readonly language: string | undefined;
  readonly identity: Identity | undefined;
  /** Whether the whole document is the app's, its title and icon too. */
  readonly ownsDocument: boolean;
  /** Where a name is enough: keeps it. */
  signIn?(user: string): void;
  signOut?(): void;
  /** The token was refused for good. `retry` connects again, when there is another. */
  refused?(retry: () => void): void;
  /** How many messages are unread, in all. */
  tellUnread(count: number): void;
}
