// `<switchboard-chat>`: the app as a custom element for other pages, in one file with its styles.

import { mount, unmount } from "svelte";
import App from "./App.svelte";
import { ElementHost } from "./app/element-host.svelte.js";
import type { Identity } from "./app/host.js";
import styles from "./styles/app.css?inline";
import elementStyles from "./styles/element.css?inline";

const SHEETS = [styles, elementStyles].map((text) => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(text);
  return sheet;
});

export class SwitchboardChat extends HTMLElement {
  static readonly observedAttributes = ["server", "conversation", "theme", "lang", "sidebar", "user"];

  #host = new ElementHost(this);
  #token: Identity["token"];
  #app: ReturnType<typeof mount> | undefined;
  #restarting = false;
  /** The values that the running app was started with. */
  #started: { server: string | null; user: string | undefined; token: Identity["token"] } | undefined;

  constructor() {
    super();
    this.attachShadow({ mode: "open" }).adoptedStyleSheets = SHEETS;
    // A property that was set before this script ran would hide the accessor: set it again through the accessor.
    for (const name of ["token", "user"] as const) {
      if (!Object.hasOwn(this, name)) continue;
      const value = this[name];
      delete this[name];
      (this as Record<typeof name, unknown>)[name] = value;
    }
  }

  /** A token, or a function that returns one and is called again when it expires. Not an attribute, because pages get copied. */
  get token(): Identity["token"] {
    return this.#token;
  }

  set token(token: Identity["token"]) {
    if (token === this.#token) return;
    this.#token = token;
    this.#restart();
  }

  /** The user's name, which a `dev` server accepts in place of a token. */
  get user(): string | undefined {
    return this.getAttribute("user") ?? undefined;
  }

  set user(user: string | undefined) {
    if (user === undefined) this.removeAttribute("user");
    else this.setAttribute("user", user);
  }

  connectedCallback(): void {
    this.#restart();
  }

  disconnectedCallback(): void {
    this.#restart();
  }

  attributeChangedCallback(name: string, before: string | null, now: string | null): void {
    if (before === now) return;
    if (name === "server" || name === "user") this.#restart();
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
    const { user } = this;
    const token = this.#token;
    this.#started = { server, user, token };
    const identity = token !== undefined ? { token } : user !== undefined ? { user } : undefined;
    this.#host.start(server, identity);
    this.#app = mount(App, { target: this.shadowRoot!, props: { host: this.#host } });
  }
}

// A page may load this file twice, and a name can be defined only once.
if (!customElements.get("switchboard-chat")) customElements.define("switchboard-chat", SwitchboardChat);
