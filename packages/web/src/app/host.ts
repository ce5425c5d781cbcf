// What the app needs from its environment: the full page, a frame in another site's page, or the custom element.

import type { ChatMessage } from "@switchboard/client";
import type { ChatEventDetails, RenderData } from "../../types/index.js";
import type { OwnTexts } from "../i18n/language.svelte.js";
import type { AppState } from "./app-state.svelte.js";
import type { Navigation } from "./navigation.svelte.js";

export type Theme = "system" | "light" | "dark";

const THEMES: readonly unknown[] = ["system", "light", "dark"] satisfies Theme[];

/** The theme that an attribute or a parameter names. */
export const themeOf = (name: string | null | undefined): Theme | undefined =>
  THEMES.includes(name) ? (name as Theme) : undefined;

/** The user's credentials: a token, or on a `dev` server a name. */
export interface Identity {
  token?: string | ((context: { signal: AbortSignal }) => string | Promise<string>);
  user?: string;
}

/** Whether the user can see the app and is likely to look at it. */
export interface Attention {
  readonly here: boolean;
}

/** How an embedding page sees a chat without a user. */
export interface SignedOut {
  /** Whether a user was signed in before. */
  readonly before: boolean;
  /** Asks for a new token; absent if the page gives none. */
  retry?: (() => void) | undefined;
}

/** A link with the credentials of another user than the one who is signed in. */
export interface Replacement {
  /** The users' ids, if the credentials name them. */
  readonly user: string | undefined;
  readonly before: string | undefined;
  accept(): void;
  refuse(): void;
}

/** Why and until when the server keeps the user out; without `until` for good. */
export interface Ban {
  readonly message: string;
  readonly until?: string;
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
  /**
   * Handles that the server refused the token for good. The host calls `retry` to reconnect once it has a new token. `ended`:
   * the user was logged out everywhere or banned, so that nothing may stay on the screen.
   */
  refused?(retry: () => void, ended: boolean): void;
  /** Why there is no chat in an embedding page; absent while there is one, or while the page may still give a token. */
  readonly signedOut?: SignedOut | undefined;
  /** Connects a user's chat with the embedding page. Called while the component is created, so that it may have effects. */
  attach?(appState: AppState): void;
  /** By default the document's visibility and focus. */
  readonly attention?: Attention;
  /** Whether only the conversation of `navigation` is shown and counted. */
  readonly single?: boolean;
  /** The name and the address of a picture, in place of the product's. */
  readonly name?: string | undefined;
  readonly logo?: string | undefined;
  /** The names of hidden parts, separated by spaces. */
  readonly hide?: string | undefined;
  readonly texts?: OwnTexts | undefined;
  readonly renderData?: RenderData | undefined;
  /** Handles a click in the content that `renderData` returned, on an element with `data-action`. */
  onAction?(action: string, message: ChatMessage): void;
  onSent?(sent: ChatEventDetails["sent"]): void;
}
