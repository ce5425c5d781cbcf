// The app in the custom element, configured by its attributes and properties, which may change while it runs.

import type { ChatMessage } from "@switchboard/client";
import type { ChatEventDetails, RenderData } from "../../types/index.js";
import type { OwnTexts } from "../i18n/language.svelte.js";
import { Embedding, type Emit } from "./embedding.svelte.js";
import { type AppHost, type Identity, type SignedOut, type Theme, themeOf } from "./host.js";
import type { AppState } from "./app-state.svelte.js";
import { MemoryNavigation } from "./navigation.svelte.js";
import { Visibility } from "./visibility.svelte.js";

/** How long the page may take to give a token, before the user sees that there is no chat. */
const TOKEN_WAIT_MS = 3_000;

export class ElementHost implements AppHost {
  readonly ownsDocument = false;
  readonly navigation = new MemoryNavigation();
  readonly embedding: Embedding;
  readonly attention: Visibility;
  #emit: Emit;
  #server = $state.raw("");
  #identity = $state.raw<Identity>();
  #signedOut = $state.raw<SignedOut>();
  #attributes = $state.raw<Readonly<Record<string, string | undefined>>>({});
  #waiting: ReturnType<typeof setTimeout> | undefined;
  texts = $state.raw<OwnTexts>();
  renderData = $state.raw<RenderData>();

  constructor(element: HTMLElement, emit: Emit) {
    this.#emit = emit;
    this.embedding = new Embedding(this.navigation, emit);
    this.attention = new Visibility(element, true);
  }

  get server(): string {
    return this.#server;
  }

  get identity(): Identity | undefined {
    return this.#identity;
  }

  get signedOut(): SignedOut | undefined {
    return this.#signedOut;
  }

  get single(): boolean {
    return this.#attributes["mode"] === "single";
  }

  get sidebar(): boolean {
    const { sidebar } = this.#attributes;
    return !this.single && sidebar !== "0" && sidebar !== "false";
  }

  get theme(): Theme | undefined {
    return themeOf(this.#attributes["theme"]);
  }

  get language(): string | undefined {
    return this.#attributes["lang"];
  }

  get name(): string | undefined {
    return this.#attributes["name"];
  }

  get logo(): string | undefined {
    return this.#attributes["logo"];
  }

  get hide(): string | undefined {
    return this.#attributes["hide"];
  }

  /** Starts with a user, or without one until the page gives a token. */
  start(server: string, identity: Identity | undefined): void {
    clearTimeout(this.#waiting);
    this.#server = server;
    this.#identity = identity;
    this.#signedOut = undefined;
    if (!identity) this.#waiting = setTimeout(() => this.#reportNoToken(), TOKEN_WAIT_MS);
  }

  stop(): void {
    clearTimeout(this.#waiting);
  }

  /** Ends the user's chat. `retry` starts another one; without it the page has to give a token first. */
  end(retry?: () => void): void {
    clearTimeout(this.#waiting);
    this.#identity = undefined;
    this.#signedOut = { before: true, retry };
    this.#emit("status", { state: "signed-out" });
  }

  attribute(name: string, value: string | null): void {
    this.#attributes = { ...this.#attributes, [name]: value || undefined };
    if (name !== "conversation") return;
    if (value) this.navigation.open(value);
    else this.navigation.close();
  }

  attach(appState: AppState): void {
    this.embedding.attach(appState);
  }

  refused(): void {
    const identity = this.#identity;
    this.end(() => this.start(this.#server, identity && { ...identity }));
  }

  onSent(sent: ChatEventDetails["sent"]): void {
    this.#emit("sent", sent);
  }

  onAction(action: string, message: ChatMessage): void {
    this.#emit("action", { action, message });
  }

  #reportNoToken(): void {
    this.#signedOut = { before: false };
    this.embedding.fail("unauthorized", "the chat has no user: set its property `token`");
  }
}
