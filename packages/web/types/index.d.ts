// The types of `<switchboard-chat>` and `<switchboard-launcher>` for pages that use them. `react.d.ts` and `vue.d.ts` add
// them to JSX and to Vue's templates.

import type { Acknowledged, AnyData, ChatMessage, ChatStatus, Draft } from "@switchboard/client";

/** A text, or its forms by plural category; `{n}` is the number. */
export type Text = string | ({ readonly other: string } & { readonly [category in Intl.LDMLPluralRule]?: string });

/** A page's own texts by language: some of them, or all texts of a language that the chat does not have. */
export type Texts = Readonly<Record<string, { readonly [key: string]: Text }>>;

/** Returns the content that shows a message's `data`, or nothing for the usual content. */
export type RenderData = (data: AnyData, message: ChatMessage) => Node | string | undefined;

/** The number of unread messages, and that of each conversation that has some. */
export interface UnreadCounts {
  readonly count: number;
  readonly conversations: Readonly<Record<string, number>>;
}

/** The events, with their `detail`. The frame posts them as `switchboard:ready` and so on. */
export interface ChatEventDetails {
  /** There is a connection, for the first time of this user. */
  ready: { readonly user: string };
  /** A message of another user. */
  message: { readonly conversation: string; readonly message: ChatMessage };
  /** A message of the user that the server has stored. */
  sent: Acknowledged & { readonly key: string } & Draft;
  /** The chat was opened or closed, by a method or by the user. */
  open: { readonly conversation: string | undefined };
  close: Record<string, never>;
  conversationchange: { readonly conversation: string | undefined };
  status: Pick<ChatStatus, "code" | "reason"> & { readonly state: ChatStatus["state"] | "signed-out" };
  error: { readonly code: string; readonly message: string };
  /** The user chooses a link; cancelling the event keeps the browser from opening it. */
  linkclick: { readonly href: string };
  unread: UnreadCounts;
  /** The user clicks an element with `data-action` in the content that `renderData` returned. */
  action: { readonly action: string; readonly message: ChatMessage };
}

/** The attributes of both elements. */
export interface ChatAttributes {
  /** The server's URL, by default the directory of the script. */
  server?: string | undefined;
  /** On a `dev` server, in place of a token. Another value starts anew. */
  user?: string | undefined;
  /** `#general`, `@bob` or a conversation id. */
  conversation?: string | undefined;
  /** `single`: only `conversation` is shown and counted. */
  mode?: "single" | "all" | undefined;
  theme?: "system" | "light" | "dark" | undefined;
  lang?: string | undefined;
  /** `0`: without the list of conversations. */
  sidebar?: string | undefined;
  /** The name and the address of a picture, in place of the product's. */
  name?: string | undefined;
  logo?: string | undefined;
  /** Names of parts that are hidden, separated by spaces. */
  hide?: string | undefined;
}

/** The further attributes of the launcher. */
export interface LauncherAttributes extends ChatAttributes {
  /** A text beside the bubble, until the user dismisses it. */
  teaser?: string | undefined;
  /** The bubble's name for screen readers. */
  label?: string | undefined;
  position?: "start" | "end" | undefined;
  /** `0`: no connection, and so no number, before the chat was opened. */
  badge?: string | undefined;
}

export interface ChatProperties {
  /** A token, or a function that returns one. Another function takes its place without a reconnect. */
  token?: string | ((context: { signal: AbortSignal }) => string | Promise<string>) | undefined;
  texts?: Texts | undefined;
  renderData?: RenderData | undefined;
}

type Listener<T, K extends keyof ChatEventDetails> = (this: T, event: CustomEvent<ChatEventDetails[K]>) => unknown;

/** What both elements can do. */
export interface ChatMethods {
  readonly unread: UnreadCounts;
  /** Shows the chat, and opens a conversation in it. */
  open(conversation?: string): void;
  /** Hides the chat. It stays connected, and counts what is unread. */
  close(): void;
  toggle(): void;
  /** Moves the focus to the message field. */
  focus(): void;
  /** Puts a text into the message field, for the user to send. */
  compose(text: string): void;
  /** Sends a message to the open conversation. Resolves when the server has stored it. */
  send(message: string | Draft): Promise<Acknowledged>;
  /** Ends the user's chat, and removes the user's data from the browser. Another token starts it again. */
  signOut(): Promise<void>;
}

interface ChatListeners {
  addEventListener<K extends keyof ChatEventDetails>(
    type: K,
    listener: Listener<this, K>,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof ChatEventDetails>(
    type: K,
    listener: Listener<this, K>,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | EventListenerOptions,
  ): void;
}

type Element = Omit<HTMLElement, "addEventListener" | "removeEventListener"> & ChatListeners;

/** `<switchboard-chat>`. */
export interface ChatElement extends Element, ChatProperties, ChatMethods {
  user: string | undefined;
  focus(): void;
}

/** `<switchboard-launcher>`. */
export interface LauncherElement extends Element, ChatProperties, ChatMethods {
  user: string | undefined;
  readonly isOpen: boolean;
  focus(): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "switchboard-chat": ChatElement & HTMLElement;
    "switchboard-launcher": LauncherElement & HTMLElement;
  }
}
