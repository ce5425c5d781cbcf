// Paging in both directions: moves over the loaded messages, and loads earlier ones.

import { tick } from "svelte";
import type { OpenRoom } from "../room/open-room.svelte.js";
import type { Item } from "./rows.js";
import { Span } from "./span.js";

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
    return this.#span.atEnd && !this.#room().past;
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
      await (this.#room().past ?? this.#room().conversation).loadOlder();
      await tick();
      if (!this.#span.older(this.#room().timeline)) return false;
      this.#moves++;
      return true;
    } catch {
      // The connection was lost: the next scroll or reconnect tries again.
      return false;
    } finally {
      this.#loading = false;
    }
  }

  /** Moves the drawn part one step down, and loads later messages if the log shows earlier ones. */
  async newer(list: readonly Item[]): Promise<boolean> {
    const moved = this.#span.newer(list);
    this.#moves++;
    const room = this.#room();
    if (moved || !room.past || this.#loading) return moved;
    this.#loading = true;
    try {
      if (room.past.hasNewer) await room.past.loadNewer();
      // The end is in the list of the latest messages, which goes on from there.
      if (!room.past.hasNewer) room.past = undefined;
      await tick();
      return true;
    } catch {
      return false;
    } finally {
      this.#loading = false;
    }
  }

  latest(): void {
    this.#room().past = undefined;
    this.#span.latest();
    this.#moves++;
  }

  around(list: readonly Item[], id: string): boolean {
    const found = this.#span.around(list, id);
    this.#moves++;
    return found;
  }

  /** Returns a message of the list by its seq; if it is not loaded, shows the part of the log around it. */
  async find(seq: number): Promise<Item | undefined> {
    const room = this.#room();
    const wanted = (item: Item) => item.seq === seq;
    if (!room.timeline.some(wanted)) {
      const { Past } = await import("./past.svelte.js");
      room.past = await Past.around(room.conversation, seq);
      await tick();
    }
    return room.timeline.find(wanted);
  }
}
