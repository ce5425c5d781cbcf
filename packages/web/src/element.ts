// `<switchboard-chat>`: the app as a custom element for other pages.

import type { Acknowledged, Draft } from "@switchboard/client";
import { mount, unmount } from "svelte";
import App from "./App.svelte";
import { ElementHost } from "./app/element-host.svelte.js";
import type { Identity } from "./app/host.js";
import type { ChatEventDetails, ChatMethods, ChatProperties, RenderData, UnreadCounts } from "../types/index.js";
import type { OwnTexts } from "./i18n/language.svelte.js";
import { setAgainOwnProperties } from "./own-properties.js";
import styles from "./styles/app.css?inline";
import elementStyles from "./styles/element.css?inline";

const SHEETS = [styles, elementStyles].map((text) => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(text);
  return sheet;
});

/** The directory of this script, which the server serves; it may be below a path. */
const OWN_SERVER = new URL(".", import.meta.url).href.replace(/\/$/, "");

const RESTARTING: readonly string[] = ["server", "user"];
const SETTINGS = ["conversation", "theme", "lang", "sidebar", "mode", "name", "logo", "hide"];

export class SwitchboardChat extends HTMLElement implements ChatMethods, ChatProperties {
  static readonly observedAttributes = [...RESTARTING, ...SETTINGS];

  #host = new ElementHost(this, (name, detail) => this.#emit(name, detail));
  #token: Identity["token"];
  #app: ReturnType<typeof mount> | undefined;
  #restarting = false;
  /** The values that the running app was started with. */
  #started: { server: string | null; user: string | undefined; token: Identity["token"] } | undefined;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = SHEETS;
    root.addEventListener("click", (event) => this.#onClick(event));
    setAgainOwnProperties(this);
  }

  /** A token, or a function that returns one and is called again when it expires. Not an attribute, because pages get copied. */
  get token(): Identity["token"] {
    return this.#token;
  }

  /** Another function takes the place of the last one without a reconnect: it is called when a token is needed. */
  set token(token: Identity["token"]) {
    const before = this.#token;
    if (token === before) return;
    this.#token = token;
    if (typeof token !== "function" || typeof before !== "function" || !this.#host.identity) this.#restart();
  }

  /** The user's name, which a `dev` server accepts in place of a token. */
  get user(): string | undefined {
    return this.getAttribute("user") ?? undefined;
  }

  set user(user: string | undefined) {
    if (user === undefined) this.removeAttribute("user");
    else this.setAttribute("user", user);
  }

  /** The page's own texts, by language. */
  get texts(): OwnTexts | undefined {
    return this.#host.texts;
  }

  set texts(texts: OwnTexts | undefined) {
    this.#host.texts = texts;
  }

  /** Returns the content for a message's `data`. */
  get renderData(): RenderData | undefined {
    return this.#host.renderData;
  }

  set renderData(render: RenderData | undefined) {
    this.#host.renderData = render;
  }

  /** The number of unread messages, in all and by conversation. */
  get unread(): UnreadCounts {
    return this.#host.embedding.unread;
  }

  /** Shows the element, and opens a conversation in it. */
  open(conversation?: string): void {
    if (conversation !== undefined) this.#host.embedding.show(conversation);
    if (!this.hidden) return;
    this.hidden = false;
    this.#emit("open", { conversation: this.#host.navigation.conversation });
  }

  /** Hides the element. It stays connected, and counts what is unread. */
  close(): void {
    if (this.hidden) return;
    this.hidden = true;
    this.#emit("close", {});
  }

  toggle(): void {
    if (this.hidden) this.open();
    else this.close();
  }

  /** Moves the focus to the message field. */
  override focus(): void {
    this.#host.embedding.focus();
  }

  /** Puts a text into the message field, for the user to send. */
  compose(text: string): void {
    this.open();
    this.#host.embedding.compose(text);
  }

  /** Sends a message to the open conversation. Resolves when the server has stored it. */
  send(message: string | Draft): Promise<Acknowledged> {
    return this.#host.embedding.send(message);
  }

  /** Ends the user's chat, and removes the user's data from the browser. Another token starts it again. */
  async signOut(): Promise<void> {
    await this.#host.embedding.forget();
    this.#token = undefined;
    this.#host.end();
  }

  connectedCallback(): void {
    this.#restart();
  }

  disconnectedCallback(): void {
    this.#restart();
  }

  attributeChangedCallback(name: string, before: string | null, now: string | null): void {
    if (before === now) return;
    if (RESTARTING.includes(name)) this.#restart();
    else this.#host.attribute(name, now);
  }

  /** Restarts the app once for all changes of the same task. Moving the element in the document does not restart it. */
  #restart(): void {
    if (this.#restarting) return;
    this.#restarting = true;
    queueMicrotask(() => {
      this.#restarting = false;
      const app = this.#app;
      if (app && this.isConnected && this.#unchanged()) return;
      this.#app = undefined;
      this.#host.stop();
      if (app) void unmount(app);
      if (this.isConnected) this.#start();
    });
  }

  #unchanged(): boolean {
    const { server, user, token } = this.#started ?? {};
    return server === this.getAttribute("server") && user === this.user && token === this.#token;
  }

  #start(): void {
    const server = this.getAttribute("server");
    this.#started = { server, user: this.user, token: this.#token };
    this.#host.start(server ?? OWN_SERVER, this.#identity());
    this.#app = mount(App, { target: this.shadowRoot!, props: { host: this.#host } });
  }

  #identity(): Identity | undefined {
    const token = this.#token;
    if (typeof token === "function") return { token: (context) => this.#callTokenFunction(context) };
    if (token !== undefined) return { token };
    return this.user === undefined ? undefined : { user: this.user };
  }

  /** Calls the token function that the page has set last. */
  #callTokenFunction(context: { signal: AbortSignal }): string | Promise<string> {
    return typeof this.#token === "function" ? this.#token(context) : (this.#token ?? "");
  }

  /** Lets the page handle a link in a message, for example with its router. */
  #onClick(event: Event): void {
    const link = event.composedPath().find((target) => target instanceof HTMLAnchorElement);
    if (link && !this.#emit("linkclick", { href: link.href })) event.preventDefault();
  }

  #emit<K extends keyof ChatEventDetails>(name: K, detail: ChatEventDetails[K]): boolean {
    return this.dispatchEvent(new CustomEvent(name, { detail, cancelable: name === "linkclick" }));
  }
}

// A page may load this file twice, and a name can be defined only once.
if (!customElements.get("switchboard-chat")) customElements.define("switchboard-chat", SwitchboardChat);
