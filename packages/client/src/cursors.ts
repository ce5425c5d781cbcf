// How far a bot has handled each conversation. The app stores these cursors, so that the bot continues there after a restart. A
// message counts as handled when its listeners have returned and the promises that they returned are settled.

import { Alarm, type Clock } from "./clock.js";
import type { Seq } from "./protocol.js";
import type { CursorStorage } from "./types.js";

/** Milliseconds for which changed cursors are collected before they are saved. */
const SAVE_DELAY_MS = 200;
/** The name of an entry that is no conversation. It is stored once every existing conversation has a stored cursor. */
const COMPLETE_MARK = "*";

export class SavedCursors {
  #storage: CursorStorage;
  #reportError: (error: unknown) => void;
  #scope = "";
  #cursors = new Map<string, Seq>();
  #unsavedCursors = new Map<string, Seq>();
  /** For each conversation, the first event whose listeners are not done, and all later events. */
  #unfinishedEvents = new Map<string, { seq: Seq; done: boolean }[]>();
  #saveAlarm: Alarm;
  #runningSave: Promise<void> | undefined;

  constructor(storage: CursorStorage, clock: Clock, report: (error: unknown) => void) {
    this.#storage = storage;
    this.#saveAlarm = new Alarm(clock, () => void this.flush());
    this.#reportError = report;
  }

  async load(scope: string): Promise<void> {
    this.#scope = scope;
    const loaded = await this.#storage.load(scope);
    for (const [name, seq] of Object.entries(loaded)) this.#cursors.set(name, seq);
  }

  /** Whether the whole list of conversations was stored once: a conversation without a stored cursor is newer than that list. */
  get complete(): boolean {
    return this.#cursors.has(COMPLETE_MARK);
  }

  get(conversation: string): Seq | undefined {
    return this.#cursors.get(conversation);
  }

  get conversations(): string[] {
    return [...this.#cursors.keys()].filter((name) => name !== COMPLETE_MARK);
  }

  /** Marks that all conversations are known, and saves these cursors for the conversations that have no saved cursor. */
  setComplete(cursors: Iterable<[string, Seq]>): void {
    for (const [conversation, seq] of cursors) if (!this.#cursors.has(conversation)) this.#setCursor(conversation, seq);
    if (this.complete) return;
    this.#setCursor(COMPLETE_MARK, 1);
    // Saves at once, because a bot that ends before the mark is stored would continue as on its first run.
    void this.flush();
  }

  /** Handles that an event was passed to listeners. They are done when all `promises`, which they returned, are settled. */
  onHandled(conversation: string, seq: Seq, promises: Promise<unknown>[]): void {
    const events = this.#unfinishedEvents.get(conversation) ?? [];
    if (!events.length && !promises.length) return this.#setCursor(conversation, seq);
    const event = { seq, done: !promises.length };
    events.push(event);
    this.#unfinishedEvents.set(conversation, events);
    if (event.done) return;
    void Promise.all(promises).then(() => {
      event.done = true;
      let last: Seq | undefined;
      while (events[0]?.done) last = events.shift()?.seq;
      if (!events.length) this.#unfinishedEvents.delete(conversation);
      if (last !== undefined) this.#setCursor(conversation, last);
    });
  }

  /** Saves the changed cursors at once. */
  async flush(): Promise<void> {
    this.#saveAlarm.clear();
    await this.#runningSave;
    // Nothing is saved before all conversations are known, because a missing cursor means that the conversation is new.
    if (!this.#unsavedCursors.size || !this.complete) return;
    const changed = Object.fromEntries(this.#unsavedCursors);
    this.#unsavedCursors.clear();
    try {
      await (this.#runningSave = this.#storage.save(this.#scope, changed));
    } catch (error) {
      // Cursors that could not be saved are saved together with the next ones.
      for (const [name, seq] of Object.entries(changed))
        if (!this.#unsavedCursors.has(name)) this.#unsavedCursors.set(name, seq);
      this.#reportError(error);
    } finally {
      this.#runningSave = undefined;
    }
  }

  #setCursor(conversation: string, seq: Seq): void {
    this.#cursors.set(conversation, seq);
    this.#unsavedCursors.set(conversation, seq);
    this.#saveAlarm.set(SAVE_DELAY_MS);
  }
}
