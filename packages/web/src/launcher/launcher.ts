// `<switchboard-launcher>`: a bubble in the corner of a page that opens the chat in a panel. Until the first click it loads
// only this file and counts what is unread; then it loads `<switchboard-chat>`, and passes everything on to that.

import type { SwitchboardChat } from "../element.js";
import type { ChatMethods, ChatProperties } from "../../types/index.js";
import type { OwnTexts } from "../i18n/language.svelte.js";
import { setAgainOwnProperties } from "../own-properties.js";
import { History } from "./history.js";
import { Memory } from "./memory.js";
import styles from "./launcher.css?inline";
import { launcherTexts, type LauncherTexts } from "./texts.js";
import { type Arrival, type Credentials, UnreadSocket } from "./unread-socket.js";
import { parts, type Parts } from "./view.js";

type Chat = SwitchboardChat;

const SHEET = new CSSStyleSheet();
SHEET.replaceSync(styles);

/** The directory of this script, which the server serves; it may be below a path. */
const OWN_SERVER = new URL(".", import.meta.url).href.replace(/\/$/, "");
const CHAT_SCRIPT = new URL("./switchboard-chat.js", import.meta.url).href;

/** The attributes that the chat in the panel has, too. */
const PASSED_ON = ["server", "user", "conversation", "mode", "theme", "lang", "sidebar", "name", "logo", "hide"];
/** The events of the chat that the launcher reports. `open` and `close` are its own. */
const REPORTED = [
  "ready",
  "message",
  "sent",
  "conversationchange",
  "status",
  "error",
  "linkclick",
  "unread",
  "action",
] as const;
/** Milliseconds after which the teaser appears. */
const TEASER_DELAY_MS = 2_500;
/** On a screen this small the panel covers it. */
const PHONE = "(width <= 520px), (height <= 480px)";

export class SwitchboardLauncher extends HTMLElement implements ChatMethods, ChatProperties {
  static readonly observedAttributes = [...PASSED_ON, "teaser", "label", "position", "badge"];

  #token: Credentials["token"];
  #texts: OwnTexts | undefined;
  #renderData: Chat["renderData"];
  #parts: Parts;
  #chat: Chat | undefined;
  #loading: Promise<Chat> | undefined;
  #socket: UnreadSocket | undefined;
  #socketFor = "";
  #counts: Chat["unread"] = { count: 0, conversations: {} };
  #memory = new Memory(() => this.getAttribute("server") ?? OWN_SERVER);
  #history = new History(() => this.close());
  #teaserTimer: ReturnType<typeof setTimeout> | undefined;
  #updating = false;
  /** The message that the teaser shows in place of the page's own text. */
  #arrival: Arrival | undefined;
  #visible = () => this.#fit();

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [SHEET];
    this.#parts = parts(root);
    const { bubble, teaserText, dismiss, panel, close } = this.#parts;
    bubble.addEventListener("click", () => this.toggle());
    close.addEventListener("click", () => this.close());
    teaserText.addEventListener("click", () => this.#openTeaser());
    dismiss.addEventListener("click", () => this.#dismissTeaser());
    panel.addEventListener("keydown", (event) => this.#onKey(event));
    // The Esc key in a modal dialog; a dialog inside closes by its own event.
    panel.addEventListener("cancel", (event) => event.target === panel && event.preventDefault());
    setAgainOwnProperties(this);
  }

  get token(): Credentials["token"] {
    return this.#token;
  }

  set token(token: Credentials["token"]) {
    this.#token = token;
    if (this.#chat) this.#chat.token = token;
    this.#update();
  }

  get user(): string | undefined {
    return this.getAttribute("user") ?? undefined;
  }

  set user(user: string | undefined) {
    if (user === undefined) this.removeAttribute("user");
    else this.setAttribute("user", user);
  }

  get texts(): OwnTexts | undefined {
    return this.#texts;
  }

  set texts(texts: OwnTexts | undefined) {
    this.#texts = texts;
    if (this.#chat) this.#chat.texts = texts;
    this.#update();
  }

  get renderData(): Chat["renderData"] {
    return this.#renderData;
  }

  set renderData(render: Chat["renderData"]) {
    this.#renderData = render;
    if (this.#chat) this.#chat.renderData = render;
  }

  get unread(): Chat["unread"] {
    return this.#counts;
  }

  get isOpen(): boolean {
    return this.#parts.panel.open;
  }

  /** Opens the panel, and a conversation in it. */
  open(conversation?: string): void {
    this.#open(true);
    if (conversation !== undefined)
      void this.#load().then(
        (chat) => chat.open(conversation),
        () => {},
      );
  }

  close(): void {
    const { panel, bubble } = this.#parts;
    if (!panel.open) return;
    const hadFocus = this.contains(document.activeElement);
    panel.close();
    this.#chat?.close();
    this.#memory.open = false;
    this.#history.leave();
    this.#update();
    if (hadFocus) bubble.focus();
    this.#emit("close", {});
  }

  toggle(): void {
    if (this.isOpen) this.close();
    else this.open();
  }

  override focus(): void {
    if (this.isOpen) this.#chat?.focus();
    else this.#parts.bubble.focus();
  }

  /** Opens the panel with a text in the message field, for the user to send. */
  compose(text: string): void {
    this.open();
    void this.#load().then(
      (chat) => chat.compose(text),
      () => {},
    );
  }

  /** Sends a message without opening the panel. Resolves when the server has stored it. */
  async send(message: Parameters<Chat["send"]>[0]): ReturnType<Chat["send"]> {
    return (await this.#load()).send(message);
  }

  /** Ends the user's chat, and removes the user's data from the browser. */
  async signOut(): Promise<void> {
    this.#stopCounting();
    this.#token = undefined;
    this.close();
    this.#memory.clear();
    this.#setCounts(0, {});
    if (this.#loading) await (await this.#loading).signOut();
  }

  connectedCallback(): void {
    visualViewport?.addEventListener("resize", this.#visible);
    if (this.#memory.open && !matchMedia(PHONE).matches) this.#open(false);
    this.#update();
    this.#teaserTimer = setTimeout(() => this.#update(), TEASER_DELAY_MS);
  }

  disconnectedCallback(): void {
    visualViewport?.removeEventListener("resize", this.#visible);
    clearTimeout(this.#teaserTimer);
    this.#teaserTimer = undefined;
    this.#history.leave();
    this.#parts.panel.close();
    this.#stopCounting();
  }

  attributeChangedCallback(name: string, before: string | null, now: string | null): void {
    if (before === now) return;
    if (this.#chat && PASSED_ON.includes(name)) this.#pass(this.#chat, name);
    this.#update();
  }

  #open(byUser: boolean): void {
    const { panel } = this.#parts;
    if (panel.open || !this.isConnected) return;
    const full = matchMedia(PHONE).matches;
    panel.classList.toggle("full", full);
    if (full) {
      panel.showModal();
      this.#history.enter();
    } else {
      // Without the method `show()`, which moves the focus.
      panel.open = true;
    }
    this.#fit();
    this.#memory.open = true;
    this.#arrival = undefined;
    this.#memory.dismissed = this.getAttribute("teaser") ?? "";
    this.#load().then(
      (chat) => {
        if (!panel.open) return;
        chat.hidden = false;
        // On a phone the focus would open the keyboard over the messages.
        if (byUser && !full) chat.focus();
      },
      () => this.#parts.waitText.replaceChildren(this.#text.launcherFailed),
    );
    this.#update();
    this.#emit("open", { conversation: this.getAttribute("conversation") ?? undefined });
  }

  /** Loads the chat, once. */
  #load(): Promise<Chat> {
    this.#loading ??= this.#create();
    this.#loading.catch(() => (this.#loading = undefined));
    return this.#loading;
  }

  async #create(): Promise<Chat> {
    await import(/* @vite-ignore */ CHAT_SCRIPT);
    const chat = document.createElement("switchboard-chat") as Chat;
    chat.hidden = !this.isOpen;
    for (const name of [...PASSED_ON, "server", "mode"]) this.#pass(chat, name);
    chat.token = this.#token;
    chat.texts = this.#texts;
    chat.renderData = this.#renderData;
    for (const name of REPORTED) chat.addEventListener(name, (event) => this.#onChatEvent(event as CustomEvent));
    this.#stopCounting();
    this.#chat = chat;
    // Not in the shadow root, so that the page's styles apply to the content of its own cards.
    chat.slot = "chat";
    this.append(chat);
    return chat;
  }

  #pass(chat: Chat, name: string): void {
    const given = this.getAttribute(name);
    const single = this.hasAttribute("conversation") ? "single" : null;
    const value = name === "server" ? (given ?? OWN_SERVER) : name === "mode" ? (given ?? single) : given;
    if (value === null) chat.removeAttribute(name);
    else chat.setAttribute(name, value);
  }

  #onChatEvent(event: CustomEvent): void {
    const { type, detail, cancelable } = event;
    if (type === "unread") {
      const { count, conversations } = detail as Chat["unread"];
      return this.#setCounts(count, conversations);
    }
    if (type === "message")
      this.#announce(detail as { conversation: string; message: { from: string; text?: string } });
    if (!this.#emit(type, detail, cancelable)) event.preventDefault();
  }

  #announce({ conversation, message }: { conversation: string; message: { from: string; text?: string } }): void {
    if (!this.isOpen) this.#onArrival({ conversation, from: message.from, text: message.text });
  }

  #onArrival(arrival: Arrival): void {
    this.#arrival = arrival;
    this.#update();
  }

  #setCounts(count: number, conversations: Readonly<Record<string, number>>): void {
    if (count === this.#counts.count && JSON.stringify(conversations) === JSON.stringify(this.#counts.conversations))
      return;
    this.#counts = { count, conversations };
    if (!count) this.#arrival = undefined;
    this.#update();
    this.#emit("unread", this.#counts);
  }

  /** Starts, restarts or ends the connection that counts, as the attributes want it. */
  #count(): void {
    const server = this.getAttribute("server") ?? OWN_SERVER;
    const known = this.#token !== undefined || this.user !== undefined;
    const wanted = this.isConnected && !this.#loading && known && this.getAttribute("badge") !== "0";
    const key = wanted ? JSON.stringify([server, this.user, typeof this.#token === "string" ? this.#token : ""]) : "";
    if (key === this.#socketFor) return;
    this.#stopCounting();
    if (!wanted) return;
    this.#socketFor = key;
    this.#socket = new UnreadSocket(
      new URL(server, location.href).href,
      () => ({ token: this.#token, user: this.user }),
      () => (this.getAttribute("mode") === "all" ? undefined : (this.getAttribute("conversation") ?? undefined)),
      (count, conversations) => this.#setCounts(count, conversations),
      (arrival) => this.#onArrival(arrival),
    );
  }

  #stopCounting(): void {
    this.#socket?.close();
    this.#socket = undefined;
    this.#socketFor = "";
  }

  get #text(): LauncherTexts {
    const lang = this.getAttribute("lang");
    return launcherTexts(lang ? [lang] : navigator.languages, this.#texts);
  }

  /** Draws everything once for all changes of a task. */
  #update(): void {
    if (this.#updating) return;
    this.#updating = true;
    queueMicrotask(() => {
      this.#updating = false;
      this.#count();
      this.#draw();
    });
  }

  #draw(): void {
    const { bubble, badge, bubbleLabel, panel, close, dismiss } = this.#parts;
    const text = this.#text;
    const { count } = this.#counts;
    const shown = this.isOpen ? 0 : count;
    badge.hidden = !shown;
    badge.textContent = shown > 99 ? "99+" : String(shown);
    const unread = shown ? ` (${text.launcherUnread.replace("{n}", String(shown))})` : "";
    bubbleLabel.textContent =
      (this.isOpen ? text.launcherClose : this.getAttribute("label") || text.launcherOpen) + unread;
    bubble.setAttribute("aria-expanded", String(this.isOpen));
    panel.setAttribute("aria-label", this.getAttribute("name") || text.launcherTitle);
    for (const button of [close, dismiss]) {
      const label = button === close ? text.launcherClose : text.launcherDismiss;
      button.setAttribute("aria-label", label);
      button.title = label;
    }
    this.#drawTeaser(text);
  }

  #drawTeaser(text: LauncherTexts): void {
    const { teaser, teaserFrom, teaserBody } = this.#parts;
    const own = this.getAttribute("teaser") ?? "";
    const due = this.#teaserTimer !== undefined && own !== "" && this.#memory.dismissed !== own && this.#ripe;
    const arrival = this.#counts.count ? this.#arrival : undefined;
    const from = arrival ? this.getAttribute("name") || arrival.from : "";
    const body = arrival ? (arrival.text ?? text.launcherAttachment) : own;
    if (teaserFrom.textContent !== from) teaserFrom.textContent = from;
    if (teaserBody.textContent !== body) teaserBody.textContent = body;
    teaser.hidden = this.isOpen || !(arrival ?? due);
  }

  /** Whether the page was there long enough for its teaser. */
  get #ripe(): boolean {
    return performance.now() - this.#since >= TEASER_DELAY_MS - 50;
  }

  #since = performance.now();

  #openTeaser(): void {
    const conversation = this.getAttribute("conversation") ? undefined : this.#arrival?.conversation;
    this.open(conversation);
  }

  #dismissTeaser(): void {
    if (!this.#arrival) this.#memory.dismissed = this.getAttribute("teaser") ?? "";
    this.#arrival = undefined;
    this.#update();
    this.#parts.bubble.focus();
  }

  #onKey(event: KeyboardEvent): void {
    if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
    // A dialog, a menu or the emoji inside closes first.
    const inside = event.composedPath();
    const end = inside.indexOf(this.#parts.panel);
    if (inside.slice(0, end).some((one) => one instanceof Element && one.matches("dialog, [popover]"))) return;
    event.preventDefault();
    this.close();
  }

  /** Fits the panel above the keyboard of a phone, which Safari draws over the page. */
  #fit(): void {
    const { panel } = this.#parts;
    const height = visualViewport?.height;
    if (height && panel.classList.contains("full")) panel.style.setProperty("--visible", `${height}px`);
  }

  #emit(type: string, detail: unknown, cancelable = false): boolean {
    return this.dispatchEvent(new CustomEvent(type, { detail, cancelable }));
  }
}

if (!customElements.get("switchboard-launcher")) customElements.define("switchboard-launcher", SwitchboardLauncher);
