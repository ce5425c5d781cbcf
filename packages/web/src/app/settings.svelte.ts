// The user's settings, stored in the browser.

import type { Theme } from "./host.js";
import { localStore } from "./storage.js";

interface Choices {
  theme: Theme;
  /** The language that the user has chosen; `undefined` means the browser's language. */
  language: string | undefined;
  notifications: boolean;
}

const NONE: Choices = { theme: "system", language: undefined, notifications: false };

function load(): Choices {
  try {
    return { ...NONE, ...(JSON.parse(localStore.get("settings") ?? "{}") as Partial<Choices>) };
  } catch {
    return NONE;
  }
}

export class Settings {
  #choices = $state.raw(load());

  constructor() {
    // Browsers fire `storage` in all other tabs when a tab has changed the settings.
    addEventListener("storage", ({ key }) => {
      if (key === "switchboard:settings") this.#choices = load();
    });
  }

  get theme(): Theme {
    return this.#choices.theme;
  }

  get language(): string | undefined {
    return this.#choices.language;
  }

  get notifications(): boolean {
    return this.#choices.notifications;
  }

  choose(choices: Partial<Choices>): void {
    this.#choices = { ...this.#choices, ...choices };
    localStore.set("settings", JSON.stringify(this.#choices));
  }
}
