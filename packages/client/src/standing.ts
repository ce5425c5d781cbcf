// What is known of how one's own conversation stands, and how far that can be relied on.

import type { Event, Seq, Summary, UserId } from "./protocol.js";
import { after, isLeaving, type Known, known } from "./summary.js";

export class Standing {
  summary: Known | undefined;
  /** The summary is of an earlier connection, and events since then are missing from it. */
  stale = false;
  /** The event with which the user left it; 0 while the user has not. */
  #leftAt: Seq = 0;
  /** How many messages are unread is to be found out: the list does not reach back. */
  uncounted = false;

  /** The summary, where it is of now. */
  get current(): Known | undefined {
    return this.stale ? undefined : this.summary;
  }

  /** The user has left it. */
  get left(): boolean {
    return this.#leftAt > 0;
  }

  /** The server says how it stands. */
  set(summary: Summary): void {
    this.summary = known(summary);
    this.stale = this.uncounted = false;
    this.#leftAt = 0;
  }

  clear(): void {
    this.summary = undefined;
    this.stale = false;
  }

  /** Without a connection, only what is `followed` goes on from where it stands. */
  onLost(followed: boolean): void {
    this.stale = this.summary !== undefined && !followed;
  }

  /** Whether it is known afterwards how it stands. */
  apply(event: Event, me: UserId | undefined): boolean {
    const { seq } = event;
    // Events before it come later, where the answer to `leave` has overtaken them.
    if (seq < this.#leftAt) return true;
    this.#leftAt = isLeaving(event, me) ? seq : 0;
    if (this.left) this.summary = undefined;
    // One was brought in, or written to for the first time, or after so long that it was not among the latest.
    else if (!this.summary) return false;
    else this.summary = after(this.summary, event, me);
    return true;
  }

  /** One has read up to here; `count` counts the messages behind that, where the list has them. */
  read(upto: Seq, count: (after: Seq) => number | undefined): void {
    const { summary } = this;
    if (!summary) return;
    const unread = upto >= summary.head ? 0 : count(upto);
    this.uncounted = unread === undefined && upto > summary.read;
    this.summary = { ...summary, read: Math.max(upto, summary.read), unread: unread ?? summary.unread };
  }
}
