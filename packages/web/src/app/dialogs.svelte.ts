// Which dialog is open: one at a time. Their code is fetched when the first is opened.

import type { Conversation, ChatMessage } from "@switchboard/client";
import { focused, giveBack } from "../menu/focus.js";

export type Dialog =
  | { name: "new" | "settings" | "shortcuts" }
  | { name: "members" | "rename" | "leave"; conversation: Conversation }
  | { name: "delete"; conversation: Conversation; message: ChatMessage };

export class Dialogs {
  #current = $state.raw<Dialog>();
  /** What had the focus before the first of them. */
  #before: HTMLElement | undefined;

  get current(): Dialog | undefined {
    return this.#current;
  }

  open(dialog: Dialog): void {
    if (!this.#current) this.#before = focused();
    this.#current = dialog;
  }

  closed(): void {
    this.#current = undefined;
    giveBack(this.#before);
  }
}
