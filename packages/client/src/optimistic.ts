// Edits, deletions and reactions of one's own that the server has not confirmed: the list shows them at once, and as it was
// before where they fail.

import type { Seq } from "./protocol.js";
import { type Amendment, amended, type StoredMessage } from "./timeline.js";

export interface PendingAmendment {
  readonly event: Amendment;
  /** Where it stands in the log, once the server has stored it. It shows from here until the log has come to it. */
  seq?: Seq;
}

export class Optimistic {
  #pending = new Set<PendingAmendment>();
  /** What was made of a message last, so that a message that has not changed stays the same object. */
  #made = new WeakMap<StoredMessage, { of: readonly PendingAmendment[]; message: StoredMessage }>();

  add(event: Amendment): PendingAmendment {
    const pending = { event };
    this.#pending.add(pending);
    return pending;
  }

  remove(pending: PendingAmendment): void {
    this.#pending.delete(pending);
  }

  clear(): void {
    this.#pending.clear();
  }

  /** The log has come to here. */
  onCursor(cursor: Seq): void {
    for (const pending of this.#pending) {
      if (pending.seq !== undefined && pending.seq <= cursor) this.#pending.delete(pending);
    }
  }

  /** The message as it will stand. */
  show(message: StoredMessage): StoredMessage {
    if (!this.#pending.size) return message;
    const of = [...this.#pending].filter(({ event }) => event.target === message.seq);
    if (!of.length) return message;
    const made = this.#made.get(message);
    if (made && made.of.length === of.length && made.of.every((pending, n) => pending === of[n])) return made.message;
    const shown = of.reduce((before, { event }) => amended(before, event), message);
    this.#made.set(message, { of, message: shown });
    return shown;
  }
}
