// Paging both ways: over what is loaded, and beyond its beginning.

import { tick } from "svelte";
import type { ChatMessage } from "@switchboard/client";
import type { OpenRoom } from "../room/open-room.svelte.js";
import { Span } from "./span.js";

/** Most pages that are loaded to find one message. */
const PAGES = 10;

export class Pager {
  #span = new Span();
  /** Counts the span's moves, for whoever depends on it. */
  #moves = $state.raw(0);
  #loading = false;
  #room: () => OpenRoom;

  constructor(room: () => OpenRoom) {
    this.#room = room;
  }

  /** There is nothing earlier. */
  get beginning(): boolean {
    const room = this.#room();
    return room.state === "ready" && !room.hasOlder;
  }

  /** Whether the part that was drawn last has the end of the list in it. */
  get atEnd(): boolean {
    void this.#moves;
    return this.#span.atEnd;
  }

  /** The part of the list that is drawn. */
  part(list: readonly ChatMessage[], readerAtBottom: boolean): [from: number, to: number] {
    void this.#moves;
    this.#span.trim(list, readerAtBottom);
    return this.#span.of(list);
  }

  /** A step up, loaded if it must be. Whether there was one. */
  async older(list: readonly ChatMessage[]): Promise<boolean> {
    if (this.#span.older(list)) {
      this.#moves++;
      return true;
    }
    if (this.#loading || this.#room().state !== "ready" || !this.#room().hasOlder) return false;
    this.#loading = true;
    try {
      await this.#room().conversation.loadOlder();
      await tick();
      if (!this.#span.older(this.#room().messages)) return false;
      this.#moves++;
      return true;
    } catch {
      // The connection is gone: once it is back, or with the next scroll, it is tried again.
      return false;
    } finally {
      this.#loading = false;
    }
  }

  newer(list: readonly ChatMessage[]): boolean {
    const moved = this.#span.newer(list);
    this.#moves++;
    return moved;
  }

  latest(): void {
    this.#span.latest();
    this.#moves++;
  }

  around(list: readonly ChatMessage[], id: string): boolean {
    const found = this.#span.around(list, id);
    this.#moves++;
    return found;
  }

  /** A message by its number, loaded if it is not too far back. */
  async find(seq: number): Promise<ChatMessage | undefined> {
    const room = this.#room();
    for (let page = 0; page < PAGES && !room.find(seq); page++) {
      if (!(await room.conversation.loadOlder().catch(() => false))) break;
    }
    await tick();
    return room.find(seq);
  }
}
