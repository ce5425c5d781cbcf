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
  #changedMessages = new WeakMap<StoredMessage, { changes: readonly PendingAmendment[]; message: StoredMessage }>();

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
    const pendingChanges = [...this.#unconfirmed].filter(({ event }) => event.target === message.seq);
    if (!pendingChanges.length) return message;
    const cached = this.#changedMessages.get(message);
    if (
      cached &&
      cached.changes.length === pendingChanges.length &&
      cached.changes.every((pending, n) => pending === pendingChanges[n])
    )
      return cached.message;
    const shown = pendingChanges.reduce((before, { event }) => applyAmendment(before, event), message);
    this.#changedMessages.set(message, { changes: pendingChanges, message: shown });
    return shown;
  }
}
