// Drafts by conversation, stored in the browser.

import { localStore } from "../app/storage.js";

export interface Draft {
  text: string;
  replyTo?: number;
}

const EMPTY: Draft = { text: "" };

export class Drafts {
  /** The user whose drafts these are, because several people may use one browser. */
  #owner: () => string;

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

  save(conversation: string, draft: Draft): void {
    const empty = !draft.text.trim() && draft.replyTo === undefined;
    localStore.set(this.#name(conversation), empty ? undefined : JSON.stringify(draft));
  }

  /** Removes all drafts of the user. */
  clear(): void {
    for (const name of localStore.names(`draft ${this.#owner()} `)) localStore.set(name, undefined);
  }
}
