// Drafts by conversation, stored in the browser.

import { untrack } from "svelte";
import { localStore } from "../app/storage.js";

export interface Draft {
  text: string;
  replyTo?: number;
}

const EMPTY: Draft = { text: "" };

export class Drafts {
  /** The user whose drafts these are, because several people may use one browser. */
  #owner: () => string;
  /** The texts that were saved since the page was loaded, so that the list of conversations shows them at once. */
  #texts = $state.raw<Readonly<Record<string, string>>>({});

  constructor(owner: () => string) {
    this.#owner = owner;
  }

  #name(conversation: string): string {
    return `draft ${this.#owner()} ${conversation}`;
  }

  load(conversation: string): Draft {
    try {
      const draft = JSON.parse(localStore.get(this.#name(conversation)) ?? "null") as Draft | null;
      return typeof draft?.text === "string" ? draft : EMPTY;
    } catch {
      return EMPTY;
    }
  }

  /** The text of a draft, for the list of conversations. */
  text(conversation: string): string {
    return this.#texts[this.#name(conversation)] ?? this.load(conversation).text.trim();
  }

  save(conversation: string, draft: Draft): void {
    const name = this.#name(conversation);
    // Untracked, so that an effect that saves a draft does not run again because of it.
    this.#texts = { ...untrack(() => this.#texts), [name]: draft.text.trim() };
    const empty = !draft.text.trim() && draft.replyTo === undefined;
    localStore.set(name, empty ? undefined : JSON.stringify(draft));
  }

  /** Removes all drafts of the user. */
  clear(): void {
    this.#texts = {};
    for (const name of localStore.names(`draft ${this.#owner()} `)) localStore.set(name, undefined);
  }
}
