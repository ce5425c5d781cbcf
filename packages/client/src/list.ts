// The list that an app shows of a conversation: the stored messages with the user's unconfirmed changes, the user's
// unacknowledged messages, and in the timeline also the notices between them.

import { compact } from "./compact.js";
import { Notices } from "./notices.js";
import { Optimistic } from "./optimistic.js";
import type { Entry } from "./outbox.js";
import type { Event, LogBody, Seq, UserId } from "./protocol.js";
import { Store, type StoreHooks } from "./store.js";
import { idOf, type StoredMessage, type Timeline } from "./timeline.js";
import type { AnyData, ChatMessage, Notice } from "./types.js";

export interface ListOwner {
  readonly me: UserId | undefined;
  readonly shown: Timeline | undefined;
  readonly cursor: Seq | undefined;
  /** Requests a page of the log. */
  readLog(after: Seq, limit: number): Promise<LogBody>;
}

export class MessageList {
  readonly messages: Store<readonly ChatMessage[]>;
  readonly timeline: Store<readonly (ChatMessage | Notice)[]>;
  readonly hasOlder: Store<boolean>;
  readonly optimistic = new Optimistic();
  #owner: ListOwner;
  #notices = new Notices();
  #outgoing = new Map<string, Entry>();
  /** The message that the list shows for an outbox entry, reused until the entry changes. */
  #looks = new WeakMap<Entry, ChatMessage>();
  #last: readonly ChatMessage[] = [];

  constructor(owner: ListOwner, hooks: StoreHooks) {
    this.#owner = owner;
    this.messages = new Store(() => this.#compute(), hooks);
    const subscribed = () => {
      hooks.subscribed?.();
      this.loadNotices();
    };
    type Entries = readonly (ChatMessage | Notice)[];
    this.timeline = new Store<Entries>(() => this.#notices.weave(this.messages.getSnapshot(), this.#fromTheBeginning), {
      ...hooks,
      subscribed,
    });
    this.hasOlder = new Store(() => owner.shown?.hasOlder ?? false);
  }

  get subscribed(): boolean {
    return this.messages.subscribed || this.timeline.subscribed;
  }

  changed(): void {
    this.messages.changed();
    this.timeline.changed();
    this.hasOlder.changed();
  }

  outgoing(key: string): Entry | undefined {
    return this.#outgoing.get(key);
  }

  get entries(): Iterable<Entry> {
    return this.#outgoing.values();
  }

  onOutboxChange(entry: Entry, gone: boolean): void {
    if (gone) this.#outgoing.delete(entry.key);
    else this.#outgoing.set(entry.key, entry);
    this.changed();
  }

  /** Handles that the log was applied up to `cursor`: the user's changes up to that event are now part of the messages. */
  onCursor(cursor: Seq): void {
    this.optimistic.onCursor(cursor);
    for (const [key, { stored }] of this.#outgoing) if (stored && stored.seq <= cursor) this.#outgoing.delete(key);
    this.changed();
  }

  onEvent(event: Event): void {
    if (this.timeline.subscribed) this.#notices.note(event);
    const shown = this.#owner.shown;
    if (shown?.hasOlder && shown.oldest !== undefined) this.#notices.forget(shown.oldest);
  }

  /** Finds a message in the form that the list shows, with unconfirmed changes. */
  find(seq: Seq): StoredMessage | undefined {
    const message = this.#owner.shown?.find(seq);
    return message && this.optimistic.show(message);
  }

  /** Reads the notices between the messages of the list, if an app shows them. */
  loadNotices(): void {
    const shown = this.#owner.shown;
    const cursor = this.#owner.cursor;
    if (!shown || cursor === undefined || !this.timeline.subscribed) return;
    this.#notices.load(shown.messages, this.#fromTheBeginning, cursor, this.#owner).then(
      (found) => found && this.timeline.changed(),
      // If the notices cannot be read now, they are read with the next page or the next connection.
      () => {},
    );
  }

  clear(): void {
    this.#notices.clear();
    this.#last = [];
    this.optimistic.clear();
    this.changed();
  }

  get #fromTheBeginning(): boolean {
    return this.#owner.shown?.hasOlder === false;
  }

  #compute(): readonly ChatMessage[] {
    const shown = this.#owner.shown;
    const list: ChatMessage[] = (shown?.messages ?? []).map((message) => this.optimistic.show(message));
    for (const entry of this.#outgoing.values()) {
      const message = this.#look(entry);
      if (!shown?.has(message.id)) list.push(message);
    }
    // If no message has changed, the previous list is returned, so that apps need not render again.
    const same = list.length === this.#last.length && list.every((message, n) => message === this.#last[n]);
    return same ? this.#last : (this.#last = list);
  }

  #look(entry: Entry): ChatMessage {
    const { current: state, error, stored } = entry;
    const from = this.#owner.me ?? "";
    const before = this.#looks.get(entry);
    const same =
      before?.state === state && before.error === error && before.from === from && before.seq === stored?.seq;
    if (before && same) return before;
    const { key, text, data, replyTo, time } = entry.what;
    const at = stored?.at ?? new Date(time).toISOString();
    const message = compact<ChatMessage>({
      kind: "message",
      id: idOf(from, key),
      seq: stored?.seq,
      from,
      at,
      key,
      text,
      replyTo,
      data: data as AnyData | undefined,
      reactions: {},
      state,
      error,
    });
    this.#looks.set(entry, message);
    return message;
  }
}
