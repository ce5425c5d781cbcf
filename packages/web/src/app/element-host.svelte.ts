// The app in the custom element, configured by its attributes, which may change while it runs.

import type { AppHost, Identity, Theme } from "./host.js";
import { MemoryNavigation } from "./navigation.svelte.js";

const THEMES: readonly string[] = ["system", "light", "dark"];

export class ElementHost implements AppHost {
  readonly ownsDocument = false;
  readonly navigation = new MemoryNavigation();
  #server = $state.raw("");
  #identity = $state.raw<Identity>();
  #sidebar = $state.raw(true);
  #theme = $state.raw<Theme>();
  #language = $state.raw<string>();
  #element: HTMLElement;

  constructor(element: HTMLElement) {
    this.#element = element;
  }

  get server(): string {
    return this.#server;
  }

  get identity(): Identity | undefined {
    return this.#identity;
  }

  get sidebar(): boolean {
    return this.#sidebar;
  }

  get theme(): Theme | undefined {
    return this.#theme;
  }

  get language(): string | undefined {
    return this.#language;
  }

  start(server: string | null, identity: Identity | undefined): void {
    this.#server = server || location.origin;
    this.#identity = identity;
  }

  attribute(name: string, value: string | null): void {
    if (name === "conversation" && value) this.navigation.open(value);
    else if (name === "theme") this.#theme = value !== null && THEMES.includes(value) ? (value as Theme) : undefined;
    else if (name === "lang") this.#language = value || undefined;
    else if (name === "sidebar") this.#sidebar = value !== "0" && value !== "false";
  }

  reportUnread(count: number): void {
    this.#element.dispatchEvent(new CustomEvent("unread", { detail: { count } }));
  }
}
