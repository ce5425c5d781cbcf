// The known summary of one of the user's conversations, and whether it is up to date.

import type { Event, Seq, Summary, UserId } from "./protocol.js";
import { summaryAfter, endsMembershipOf, type RoomSummary, summaryFromWire } from "./summary.js";

export class SummaryState {
  summary: RoomSummary | undefined;
  /** Whether the summary is from an earlier connection, so that later events are missing from it. */
  isStale = false;
  /** The event with which the user left; 0 if the user has not left. */
  #leaveSeq: Seq = 0;
  /** Whether the number of unread messages must be loaded, because the list does not reach back to the read cursor. */
  isUncounted = false;
  /** Whether the user has blocked the other user of this direct conversation, so that the inbox does not have it. */
  isBlocked = false;

  /** The summary, if it is up to date. */
  get currentSummary(): RoomSummary | undefined {
    return this.isStale ? undefined : this.summary;
  }

  /** Whether the user has left the conversation. */
  get hasLeft(): boolean {
    return this.#leaveSeq > 0;
  }

  /** Sets the summary that the server has sent. */
  setSummary(summary: Summary): void {
    this.summary = summaryFromWire(summary);
    this.isStale = this.isUncounted = this.isBlocked = false;
    this.#leaveSeq = 0;
  }

  clear(): void {
    this.summary = undefined;
    this.isStale = false;
  }

  /** Handles that the user has blocked another user, or no longer blocks them, whose messages the summary may count. */
  onBlock(isBlocked: boolean): void {
    this.isBlocked = isBlocked;
    if (isBlocked) this.clear();
    else this.isStale = this.summary !== undefined;
  }

  /** Handles a lost connection: unless the conversation is `followed`, its summary is out of date from now on. */
  onOffline(followed: boolean): void {
    this.isStale = this.summary !== undefined && !followed;
  }

  /** Applies an event to the summary. Returns false if the conversation needs a summary that is not loaded. */
  applyEvent(event: Event, me: UserId | undefined): boolean {
    const { seq } = event;
    // The answer to `leave` may arrive before earlier events; those no longer matter.
    if (seq < this.#leaveSeq) return true;
    this.#leaveSeq = endsMembershipOf(event, me) ? seq : 0;
    if (this.hasLeft) this.summary = undefined;
    // The conversation has no loaded summary: the user was added, or it is new, or it was too old to be among the latest.
    else if (!this.summary) return false;
    else this.summary = summaryAfter(this.summary, event, me);
    return true;
  }

  /** Moves the read cursor. `count` returns the number of later messages, or `undefined` if they are not all loaded. */
  moveReadCursor(upto: Seq, count: (after: Seq) => number | undefined): void {
    const { summary } = this;
    if (!summary) return;
    const unread = upto >= summary.head ? 0 : count(upto);
    this.isUncounted = unread === undefined && upto > summary.read;
    this.summary = { ...summary, read: Math.max(upto, summary.read), unread: unread ?? summary.unread };
  }
}
