// Where reading stopped, and how it goes on.

import { untrack } from "svelte";
import { attention } from "../app/attention.svelte.js";
import type { OpenRoom } from "../room/open-room.svelte.js";

/** Most pages that are loaded to find the place where reading stopped. */
const PAGES = 10;

export class Reading {
  /** The line stands after this number. */
  #mark = $state.raw<number>();
  /** Set once it is known where to begin; nothing counts as read before. */
  #begun = $state.raw(false);
  /** Nobody has looked since the line was put behind what had been read. */
  #movedAway = false;
  #room: OpenRoom;

  constructor(room: OpenRoom) {
    this.#room = room;
  }

  get mark(): number | undefined {
    return this.#mark;
  }

  get begun(): boolean {
    return this.#begun;
  }

  /** Finds the place, as soon as the room is known; loads until it is in the list. */
  async begin(): Promise<void> {
    const { info, conversation } = this.#room;
    if (info && info.unread > 0) {
      this.#mark = info.read;
      try {
        for (let page = 0; page < PAGES && this.#tooLate(info.read); page++) {
          if (!(await conversation.loadOlder())) break;
        }
      } catch {
        // It begins with what is there.
      }
    }
  }

  started(): void {
    this.#begun = true;
  }

  /** For an effect: tells the server, when a person looks at the end. */
  follow(endInView: boolean): void {
    const { info, conversation } = this.#room;
    if (attention.here) this.#movedAway = false;
    if (this.#begun && endInView && attention.here && info && info.unread > 0) conversation.markRead();
  }

  /** Something new came: if nobody is looking, it begins what is new when somebody comes back. */
  arrived(seq: number): void {
    if (attention.here || this.#movedAway || this.#unreadBefore(seq)) return;
    this.#movedAway = true;
    this.#mark = seq - 1;
  }

  /** This one may be counted already, or not yet. */
  #unreadBefore(seq: number): boolean {
    const info = untrack(() => this.#room.info);
    return info !== undefined && info.unread > 1 && info.read < seq - 1;
  }

  #tooLate(read: number): boolean {
    const first = this.#room.messages[0]?.seq;
    return first !== undefined && first > read + 1;
  }
}
