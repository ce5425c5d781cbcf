// How far a bot has handled each conversation. The app stores these cursors, so that the bot continues there after a restart. A
// message counts as handled when its listeners have returned and the promises that they returned are settled.

import { Alarm, type Clock } from "./clock.js";
import type { Seq } from "./protocol.js";
import type { CursorStorage } from "./types.js";

/** Milliseconds for which changed cursors are collected before they are saved. */
const GATHER = 200;
/** The name of an entry that is no conversation. It is stored once every existing conversation has a stored cursor. */
const COMPLETE = "*";

export class SavedCursors {
  #storage: CursorStorage;
  #report: (error: unknown) => void;
  #scope = "";
  #saved = new Map<string, Seq>();
  #changed = new Map<string, Seq>();
  /** For each conversation, the first event whose listeners are not done, and all later events. */
  #pending = new Map<string, { seq: Seq; done: boolean }[]>();
  #save: Alarm;
  #saving: Promise<void> | undefined;

  constructor(storage: CursorStorage, clock: Clock, report: (error: unknown) => void) {
    this.#storage = storage;
    this.#save = new Alarm(clock, () => void this.flush());
    this.#report = report;
  }

  async load(scope: string): Promise<void> {
    this.#scope = scope;
    const loaded = await this.#storage.load(scope);
    for (const [name, seq] of Object.entries(loaded)) this.#saved.set(name, seq);
  }

  /** Whether the whole list of conversations was stored once: a conversation without a stored cursor is newer than that list. */
  get complete(): boolean {
    return this.#saved.has(COMPLETE);
  }

  get(conversation: string): Seq | undefined {
    return this.#saved.get(conversation);
  }

  get conversations(): string[] {
    return [...this.#saved.keys()].filter((name) => name !== COMPLETE);
  }

  /** Marks that all conversations are known, and saves these cursors for the conversations that have no saved cursor. */
  setComplete(cursors: Iterable<[string, Seq]>): void {
    for (const [conversation, seq] of cursors) if (!this.#saved.has(conversation)) this.#note(conversation, seq);
    if (this.complete) return;
    this.#note(COMPLETE, 1);
    // Saves at once, because a bot that ends before the mark is stored would continue as on its first run.
    void this.flush();
  }

  /** Handles that an event was passed to listeners. They are done when all `promises`, which they returned, are settled. */
  onHandled(conversation: string, seq: Seq, promises: Promise<unknown>[]): void {
    const events = this.#pending.get(conversation) ?? [];
    if (!events.length && !promises.length) return this.#note(conversation, seq);
    const event = { seq, done: !promises.length };
    events.push(event);
    this.#pending.set(conversation, events);
    if (event.done) return;
    void Promise.all(promises).then(() => {
      event.done = true;
      let last: Seq | undefined;
      while (events[0]?.done) last = events.shift()?.seq;
      if (!events.length) this.#pending.delete(conversation);
      if (last !== undefined) this.#note(conversation, last);
    });
  }

  /** Saves the changed cursors at once. */
  async flush(): Promise<void> {
    this.#save.clear();
    await this.#saving;
    // Nothing is saved before all conversations are known, because a missing cursor means that the conversation is new.
    if (!this.#changed.size || !this.complete) return;
    const changed = Object.fromEntries(this.#changed);
    this.#changed.clear();
    try {
      await (this.#saving = this.#storage.save(this.#scope, changed));
    } catch (error) {
      // Cursors that could not be saved are saved together with the next ones.
      for (const [name, seq] of Object.entries(changed)) if (!this.#changed.has(name)) this.#changed.set(name, seq);
      this.#report(error);
    } finally {
      this.#saving = undefined;
    }
  }

  #note(conversation: string, seq: Seq): void {
    this.#saved.set(conversation, seq);
    this.#changed.set(conversation, seq);
    this.#save.set(GATHER);
  }
}
