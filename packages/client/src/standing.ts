// The known summary of one of the user's conversations, and whether it is up to date.

import type { Event, Seq, Summary, UserId } from "./protocol.js";
import { after, isLeaving, type Known, known } from "./summary.js";

export class Standing {
  summary: Known | undefined;
  /** Whether the summary is from an earlier connection, so that later events are missing from it. */
  stale = false;
  /** The event with which the user left; 0 if the user has not left. */
  #leftAt: Seq = 0;
  /** Whether the number of unread messages must be loaded, because the list does not reach back to the read cursor. */
  uncounted = false;

  /** The summary, if it is up to date. */
  get current(): Known | undefined {
    return this.stale ? undefined : this.summary;
  }

  /** Whether the user has left the conversation. */
  get left(): boolean {
    return this.#leftAt > 0;
  }

  /** Sets the summary that the server has sent. */
  set(summary: Summary): void {
    this.summary = known(summary);
    this.stale = this.uncounted = false;
    this.#leftAt = 0;
  }

  clear(): void {
    this.summary = undefined;
    this.stale = false;
  }

  /** Handles a lost connection: unless the conversation is `followed`, its summary is out of date from now on. */
  onLost(followed: boolean): void {
    this.stale = this.summary !== undefined && !followed;
  }

  /** Applies an event to the summary. Returns false if the conversation needs a summary that is not loaded. */
  apply(event: Event, me: UserId | undefined): boolean {
    const { seq } = event;
    // The answer to `leave` may arrive before earlier events; those no longer matter.
    if (seq < this.#leftAt) return true;
    this.#leftAt = isLeaving(event, me) ? seq : 0;
    if (this.left) this.summary = undefined;
    // The conversation has no loaded summary: the user was added, or it is new, or it was too old to be among the latest.
    else if (!this.summary) return false;
    else this.summary = after(this.summary, event, me);
    return true;
  }

  /** Moves the read cursor. `count` returns the number of later messages, or `undefined` if they are not all loaded. */
  read(upto: Seq, count: (after: Seq) => number | undefined): void {
    const { summary } = this;
    if (!summary) return;
    const unread = upto >= summary.head ? 0 : count(upto);
    this.uncounted = unread === undefined && upto > summary.read;
    this.summary = { ...summary, read: Math.max(upto, summary.read), unread: unread ?? summary.unread };
  }
}
