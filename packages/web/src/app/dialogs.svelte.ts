// Which dialog is open: one at a time. Their code is fetched when the first is opened.

import type { Conversation, Message } from "@switchboard/client";

export type Dialog =
  | { name: "new" | "settings" | "shortcuts" }
  | { name: "members" | "rename" | "leave"; conversation: Conversation }
  | { name: "delete"; conversation: Conversation; message: Message };

export class Dialogs {
  #current = $state.raw<Dialog>();

  get current(): Dialog | undefined {
    return this.#current;
  }

  open(dialog: Dialog): void {
    this.#current = dialog;
  }

  closed(): void {
    this.#current = undefined;
  }
}
