// Drafts by conversation, stored in the browser.

import { device } from "../app/kept.js";

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
      const draft = JSON.parse(device.get(this.#name(conversation)) ?? "null") as Draft | null;
      return typeof draft?.text === "string" ? draft : EMPTY;
    } catch {
      return EMPTY;
    }
  }

  save(conversation: string, draft: Draft): void {
    const empty = !draft.text.trim() && draft.replyTo === undefined;
    device.set(this.#name(conversation), empty ? undefined : JSON.stringify(draft));
  }

  /** Removes all drafts of the user. */
  clear(): void {
    for (const name of device.names(`draft ${this.#owner()} `)) device.set(name, undefined);
  }
}
