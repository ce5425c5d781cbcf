// The open dialog, one at a time. The code of the dialogs is loaded when the first one opens.

import type { Conversation, ChatMessage } from "@switchboard/client";
import { focusedElement, restoreFocus } from "../menu/focus.js";

export type Dialog =
  | { name: "new" | "settings" | "shortcuts" }
  | { name: "members" | "rename" | "leave" | "jump"; conversation: Conversation }
  | { name: "block"; user: string }
  | { name: "report"; user: string; conversation?: Conversation; message?: ChatMessage }
  | { name: "delete"; conversation: Conversation; message: ChatMessage };

export class Dialogs {
  #current = $state.raw<Dialog>();
  /** The element that had the focus before the first dialog opened. */
  #before: HTMLElement | undefined;

  get current(): Dialog | undefined {
    return this.#current;
  }

  open(dialog: Dialog): void {
    if (!this.#current) this.#before = focusedElement();
    this.#current = dialog;
  }

  closed(): void {
    this.#current = undefined;
    restoreFocus(this.#before);
  }
}
