// The unread line, and when messages count as read. `Reading` in packages/client/src/reading.ts then sends the read cursor.

import { untrack } from "svelte";
import type { Attention } from "../app/host.js";
import type { OpenRoom } from "../room/open-room.svelte.js";

/** Maximum number of pages to load in search of the first unread message. */
const MAX_PAGES = 10;

export class Reading {
  /** The last message before the unread line, by its seq. */
  #mark = $state.raw<number>();
  /** Whether the log shows the first unread message. Before that nothing counts as read. */
  #ready = $state.raw(false);
  /** Whether the unread line was moved, and the user has not looked at the page since then. */
  #movedAway = false;
  #room: OpenRoom;
  #attention: Attention;

  constructor(room: OpenRoom) {
    this.#room = room;
    this.#attention = room.appState.attention;
  }

  get mark(): number | undefined {
    return this.#mark;
  }

  get ready(): boolean {
    return this.#ready;
  }

  /** Sets the unread line from the room's summary, and loads pages until the first unread message is in the list. */
  async findFirstUnread(): Promise<void> {
    const { info, conversation } = this.#room;
    if (info && info.unread > 0) {
      this.#mark = info.read;
      try {
        for (let page = 0; page < MAX_PAGES && this.#tooLate(info.read); page++) {
          if (!(await conversation.loadOlder())) break;
        }
      } catch {
        // If a page cannot be loaded, reading begins with the loaded messages.
      }
    }
  }

  setReady(): void {
    this.#ready = true;
  }

  /** Marks the conversation as read if the user is looking at its end. Call it in an effect, which runs again on changes. */
  markReadAtEnd(endInView: boolean): void {
    const { info, conversation } = this.#room;
    if (this.#attention.here) this.#movedAway = false;
    if (this.#ready && endInView && this.#attention.here && info && info.unread > 0) conversation.markRead();
  }

  /** Marks the messages up to `seq` as read, which the user has scrolled into view. */
  markSeen(seq: number | undefined): void {
    const { info, conversation } = this.#room;
    if (seq === undefined || !this.#ready || !this.#attention.here || !info) return;
    if (info.unread > 0 && seq > info.read) conversation.markRead(seq);
  }

  /** Removes the line above the unread messages. */
  removeLine(): void {
    this.#mark = undefined;
  }

  /** Handles a new message: if the user is not looking at the page, moves the unread line to just before the message. */
  onMessage(seq: number): void {
    if (this.#attention.here || this.#movedAway || this.#unreadBefore(seq)) return;
    this.#movedAway = true;
    this.#mark = seq - 1;
  }

  /** Whether there are unread messages before `seq`. `info.unread` may or may not count the message `seq` yet. */
  #unreadBefore(seq: number): boolean {
    const info = untrack(() => this.#room.info);
    return info !== undefined && info.unread > 1 && info.read < seq - 1;
  }

  #tooLate(read: number): boolean {
    const first = this.#room.messages[0]?.seq;
    return first !== undefined && first > read + 1;
  }
}
