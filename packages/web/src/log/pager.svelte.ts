// Paging in both directions: moves over the loaded messages, and loads earlier ones.

import { tick } from "svelte";
import type { ChatMessage } from "@switchboard/client";
import type { OpenRoom } from "../room/open-room.svelte.js";
import type { Item } from "./rows.js";
import { Span } from "./span.js";

/** Maximum number of pages to load in search of one message. */
const MAX_PAGES = 10;

export class Pager {
  #span = new Span();
  /** Counts the moves of the drawn part. Getters read this number, so that Svelte evaluates them again after a move. */
  #moves = $state.raw(0);
  #loading = false;
  #room: () => OpenRoom;

  constructor(room: () => OpenRoom) {
    this.#room = room;
  }

  /** Whether the list begins with the conversation's first message. */
  get beginning(): boolean {
    const room = this.#room();
    return room.state === "ready" && !room.hasOlder;
  }

  /** Whether the drawn part includes the end of the list. */
  get atEnd(): boolean {
    void this.#moves;
    return this.#span.atEnd;
  }

  /** The part of the list to draw, as indices; `to` is exclusive. */
  part(list: readonly Item[], readerAtBottom: boolean): [from: number, to: number] {
    void this.#moves;
    this.#span.trim(list, readerAtBottom);
    return this.#span.of(list);
  }

  /** Moves the drawn part one step up, and loads earlier messages if necessary. Returns whether the part has moved. */
  async older(list: readonly Item[]): Promise<boolean> {
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
      // The connection was lost: the next scroll or reconnect tries again.
      return false;
    } finally {
      this.#loading = false;
    }
  }

  newer(list: readonly Item[]): boolean {
    const moved = this.#span.newer(list);
    this.#moves++;
    return moved;
  }

  latest(): void {
    this.#span.latest();
    this.#moves++;
  }

  around(list: readonly Item[], id: string): boolean {
    const found = this.#span.around(list, id);
    this.#moves++;
    return found;
  }

  /** Finds a message by its seq, and loads up to `MAX_PAGES` pages for it. */
  async find(seq: number): Promise<ChatMessage | undefined> {
    const room = this.#room();
    for (let page = 0; page < MAX_PAGES && !room.find(seq); page++) {
      if (!(await room.conversation.loadOlder().catch(() => false))) break;
    }
    await tick();
    return room.find(seq);
  }
}
