// How far a bot has heard each conversation, kept for it by the app: after a restart it goes on from there. A message counts as
// heard when its listeners have returned, and the promises that they gave are settled.

import { Alarm, type Clock } from "./clock.js";
import type { Seq } from "./protocol.js";
import type { CursorStorage } from "./types.js";

/** Milliseconds in which cursors are gathered before they are saved. */
const GATHER = 200;
/** The name under which is kept that all conversations of that time are in the storage. It is no conversation's. */
const COMPLETE = "*";

export class SavedCursors {
  #storage: CursorStorage;
  #report: (error: unknown) => void;
  #scope = "";
  #saved = new Map<string, Seq>();
  #changed = new Map<string, Seq>();
  /** For each conversation, events whose listeners are not done, and those behind them. */
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

  /** Whether an earlier run knew all of the conversations: what is not among them has begun since. */
  get complete(): boolean {
    return this.#saved.has(COMPLETE);
  }

  get(conversation: string): Seq | undefined {
    return this.#saved.get(conversation);
  }

  get conversations(): string[] {
    return [...this.#saved.keys()].filter((name) => name !== COMPLETE);
  }

  /** All conversations are known, and stand as given. */
  setComplete(cursors: Iterable<[string, Seq]>): void {
    for (const [conversation, seq] of cursors) if (!this.#saved.has(conversation)) this.#note(conversation, seq);
    if (this.complete) return;
    this.#note(COMPLETE, 1);
    // At once: a bot that ends before this is kept would begin anew.
    void this.flush();
  }

  /** An event was given to listeners, which may go on with it for a while. */
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

  /** Saves what has changed at once. */
  async flush(): Promise<void> {
    this.#save.clear();
    await this.#saving;
    // Before all conversations are known, a cursor that is missing would look like a conversation that is new.
    if (!this.#changed.size || !this.complete) return;
    const changed = Object.fromEntries(this.#changed);
    this.#changed.clear();
    try {
      await (this.#saving = this.#storage.save(this.#scope, changed));
    } catch (error) {
      // What was not saved goes with the next.
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
