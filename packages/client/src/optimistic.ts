// The user's edits, deletions and reactions that the server has not confirmed. The list shows them at once, and undoes them if
// they fail.

import type { Seq } from "./protocol.js";
import { type Amendment, applyAmendment, type StoredMessage } from "./timeline.js";

export interface PendingAmendment {
  readonly event: Amendment;
  /** The seq of the stored event. The change is shown from this object until that event was applied with the log. */
  seq?: Seq;
}

export class OptimisticChanges {
  #unconfirmed = new Set<PendingAmendment>();
  /** The last result of `applyTo` for each message, so that an unchanged message stays the same object. */
  #changedMessages = new WeakMap<StoredMessage, { of: readonly PendingAmendment[]; message: StoredMessage }>();

  add(event: Amendment): PendingAmendment {
    const pending = { event };
    this.#unconfirmed.add(pending);
    return pending;
  }

  remove(pending: PendingAmendment): void {
    this.#unconfirmed.delete(pending);
  }

  clear(): void {
    this.#unconfirmed.clear();
  }

  /** Handles that the log was applied up to this event. */
  onCursor(cursor: Seq): void {
    for (const pending of this.#unconfirmed) {
      if (pending.seq !== undefined && pending.seq <= cursor) this.#unconfirmed.delete(pending);
    }
  }

  /** The message with the unconfirmed changes applied. */
  applyTo(message: StoredMessage): StoredMessage {
    if (!this.#unconfirmed.size) return message;
    const of = [...this.#unconfirmed].filter(({ event }) => event.target === message.seq);
    if (!of.length) return message;
    const made = this.#changedMessages.get(message);
    if (made && made.of.length === of.length && made.of.every((pending, n) => pending === of[n])) return made.message;
    const shown = of.reduce((before, { event }) => applyAmendment(before, event), message);
    this.#changedMessages.set(message, { of, message: shown });
    return shown;
  }
}
