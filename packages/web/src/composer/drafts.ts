// What somebody has begun to write, by conversation; it outlives the page.

import { device } from "../app/kept.js";

export interface Draft {
  text: string;
  replyTo?: number;
}

const EMPTY: Draft = { text: "" };

export class Drafts {
  /** Whose drafts they are: several people may use one browser. */
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

  /** Leaves nothing behind for whoever uses the browser next. */
  clear(): void {
    for (const name of device.names(`draft ${this.#owner()} `)) device.set(name, undefined);
  }
}
