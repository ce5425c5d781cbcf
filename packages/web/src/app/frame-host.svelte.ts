// The app in a frame: the parent page posts the token, texts and actions, and the frame posts events to it. The server
// restricts the parents by `frame-ancestors`; this code accepts messages from the parent window only.

import type { Draft } from "@switchboard/client";
import type { ChatEventDetails } from "../../types/index.js";
import type { OwnTexts } from "../i18n/language.svelte.js";
import type { AppState } from "./app-state.svelte.js";
import { Embedding } from "./embedding.svelte.js";
import { readFragment } from "./fragment.js";
import { type AppHost, type Identity, type SignedOut, type Theme, themeOf } from "./host.js";
import { ownServer } from "./own-server.js";
import { MemoryNavigation } from "./navigation.svelte.js";
import { isExpired } from "./token.js";
import { Visibility } from "./visibility.svelte.js";

/** What the parent page posts; `type` is prefixed with `switchboard:`. */
interface FromParent {
  readonly type?: unknown;
  readonly token?: unknown;
  readonly conversation?: unknown;
  readonly text?: unknown;
  readonly data?: unknown;
  readonly texts?: unknown;
  readonly links?: unknown;
}

const PREFIX = "switchboard:";

export class FrameHost implements AppHost {
  readonly server = ownServer();
  readonly navigation: MemoryNavigation;
  readonly single: boolean;
  readonly sidebar: boolean;
  readonly theme: Theme | undefined;
  readonly language: string | undefined;
  readonly name: string | undefined;
  readonly hide: string | undefined;
  readonly ownsDocument = true;
  readonly attention = new Visibility(document.documentElement, false);
  readonly #embedding: Embedding;
  #identity = $state.raw<Identity>();
  #signedOut = $state.raw<SignedOut>();
  #token: string | undefined;
  #retry: (() => void) | undefined;
  #tokenRequests: ((token: string) => void)[] = [];
  #texts = $state.raw<OwnTexts>();
  /** Whether the server refused a token, and has accepted none since. */
  #refused = false;
  /** Whether the parent page opens the links. */
  #parentOpensLinks = false;

  constructor() {
    const query = new URLSearchParams(location.search);
    const { token, user } = readFragment(location.hash);
    this.navigation = new MemoryNavigation(query.get("conversation") ?? undefined);
    this.single = query.get("mode") === "single";
    this.sidebar = !this.single && query.get("sidebar") !== "0";
    this.theme = themeOf(query.get("theme"));
    this.language = query.get("lang") ?? undefined;
    this.name = query.get("name") ?? undefined;
    this.hide = query.get("hide") ?? undefined;
    this.#token = token;
    this.#identity = user && !token ? { user } : { token: () => this.#requestToken() };
    this.#embedding = new Embedding(this.navigation, (name, detail) => this.#post(name, detail));
    if (token) history.replaceState(null, "", location.pathname + location.search);
    addEventListener("message", (event) => {
      if (event.source !== window.parent || window.parent === window) return;
      this.#onMessage((event.data ?? {}) as FromParent);
    });
    addEventListener("click", (event) => this.#onClick(event));
  }

  get identity(): Identity | undefined {
    return this.#identity;
  }

  get signedOut(): SignedOut | undefined {
    return this.#signedOut;
  }

  get texts(): OwnTexts | undefined {
    return this.#texts;
  }

  attach(appState: AppState): void {
    this.#embedding.attach(appState);
    $effect(() => {
      if (appState.status.state === "online") this.#refused = false;
    });
  }

  onSent(sent: ChatEventDetails["sent"]): void {
    this.#post("sent", sent);
  }

  /**
   * Requests another token from the parent, because the server refused this one. If it has refused two in a row, or the
   * user's access has ended, the user asks for the next one, so that nothing is repeated without end.
   */
  refused(retry: () => void, ended: boolean): void {
    this.#token = undefined;
    if (ended || this.#refused) return this.#end(() => this.#restart());
    this.#refused = true;
    this.#retry = retry;
    this.#postToParent({ type: "switchboard:token-request" });
  }

  #onMessage(message: FromParent): void {
    const { type, token, conversation, text, data, texts } = message;
    if (typeof type !== "string" || !type.startsWith(PREFIX)) return;
    const draft = {
      ...(typeof text === "string" && { text }),
      ...(typeof data === "object" && data !== null && { data }),
    } as Draft;
    const actions: Record<string, () => unknown> = {
      token: () => typeof token === "string" && this.#acceptToken(token),
      open: () => typeof conversation === "string" && this.#embedding.show(conversation),
      close: () => this.navigation.close(),
      focus: () => this.#embedding.focus(),
      compose: () => this.#embedding.compose(String(text)),
      // The list shows a failure, and the event `sent` the success.
      send: () => this.#embedding.send(draft).catch(() => {}),
      "sign-out": () => this.#signOut(),
      texts: () => (this.#texts = texts as OwnTexts),
      links: () => (this.#parentOpensLinks = message.links === true),
    };
    const name = type.slice(PREFIX.length);
    if (Object.hasOwn(actions, name)) actions[name]!();
  }

  #acceptToken(token: string): void {
    this.#token = token;
    if (!this.#identity) this.#restart();
    for (const resolve of this.#tokenRequests.splice(0)) resolve(token);
    this.#retry?.();
    this.#retry = undefined;
  }

  #requestToken(): string | Promise<string> {
    if (this.#token && !isExpired(this.#token)) return this.#token;
    this.#postToParent({ type: "switchboard:token-request" });
    return new Promise((resolve) => this.#tokenRequests.push(resolve));
  }

  async #signOut(): Promise<void> {
    await this.#embedding.forget();
    this.#token = undefined;
    this.#end();
  }

  #restart(): void {
    this.#signedOut = undefined;
    this.#identity = { token: () => this.#requestToken() };
  }

  #end(retry?: () => void): void {
    this.#identity = undefined;
    this.#retry = undefined;
    this.#tokenRequests = [];
    this.#signedOut = { before: true, retry };
    this.#post("status", { state: "signed-out" });
  }

  #onClick(event: MouseEvent): void {
    const link = event.target instanceof Element ? event.target.closest<HTMLAnchorElement>("a[href]") : null;
    if (!link) return;
    this.#post("linkclick", { href: link.href });
    if (this.#parentOpensLinks) event.preventDefault();
  }

  #post<K extends keyof ChatEventDetails>(name: K, detail: ChatEventDetails[K]): boolean {
    // An error of the SDK is an object that cannot be posted, so what is posted is plain data.
    this.#postToParent({ ...(JSON.parse(JSON.stringify(detail)) as object), type: PREFIX + name });
    return true;
  }

  #postToParent(message: object): void {
    if (window.parent === window) return;
    // `*` is safe, because only the document that frames this page receives the message, and `frame-ancestors` has let it.
    window.parent.postMessage(message, "*");
  }
}
