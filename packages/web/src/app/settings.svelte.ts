// The user's settings, stored in the browser.

import { createSubscriber } from "svelte/reactivity";
import { on } from "svelte/events";
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
  #saved = $state.raw(load());
  /** Browsers fire `storage` in all other tabs when a tab has changed the settings. */
  #depend = createSubscriber((update) =>
    on(window, "storage", ({ key }) => {
      if (key !== "switchboard:settings") return;
      this.#saved = load();
      update();
    }),
  );

  get #choices(): Choices {
    this.#depend();
    return this.#saved;
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
    this.#saved = { ...this.#saved, ...choices };
    localStore.set("settings", JSON.stringify(this.#saved));
  }
}
