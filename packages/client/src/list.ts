// The list that an app shows of a conversation: the stored messages with the user's unconfirmed changes, the user's
// unacknowledged messages, and in the timeline also the notices between them.

import { compact } from "./compact.js";
import { type NoticeRange, Notices } from "./notices.js";
import { OptimisticChanges } from "./optimistic.js";
import type { Entry } from "./outbox.js";
import type { Event, LogBody, Seq, UserId } from "./protocol.js";
import { Store, type StoreHooks } from "./store.js";
import { messageIdOf, type StoredMessage, type Timeline } from "./timeline.js";
import type { AnyData, ChatMessage, Notice } from "./types.js";

export interface ListOwner {
  readonly me: UserId | undefined;
  readonly shownTimeline: Timeline | undefined;
  readonly cursor: Seq | undefined;
  /** Requests a page of the log. */
  readLog(after: Seq, limit: number): Promise<LogBody>;
}

export class MessageList {
  readonly messages: Store<readonly ChatMessage[]>;
  readonly timeline: Store<readonly (ChatMessage | Notice)[]>;
  readonly hasOlder: Store<boolean>;
  readonly optimistic = new OptimisticChanges();
  #owner: ListOwner;
  #notices = new Notices();
  #outgoing = new Map<string, Entry>();
  /** The message that the list shows for an outbox entry, reused until the entry changes. */
  #messageByEntry = new WeakMap<Entry, ChatMessage>();
  #lastMessages: readonly ChatMessage[] = [];

  constructor(owner: ListOwner, hooks: StoreHooks) {
    this.#owner = owner;
    this.messages = new Store(() => this.#computeMessages(), hooks);
    const isSubscribed = () => {
      hooks.onSubscribe?.();
      this.loadNotices();
    };
    type Entries = readonly (ChatMessage | Notice)[];
    this.timeline = new Store<Entries>(
      () => this.#notices.mergeInto(this.messages.getSnapshot(), this.#startsAtBeginning),
      {
        ...hooks,
        onSubscribe: isSubscribed,
      },
    );
    this.hasOlder = new Store(() => owner.shownTimeline?.hasOlder ?? false);
  }

  get hasSubscribers(): boolean {
    return this.messages.isSubscribed || this.timeline.isSubscribed;
  }

  invalidate(): void {
    this.messages.invalidate();
    this.timeline.invalidate();
    this.hasOlder.invalidate();
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
    this.invalidate();
  }

  /** Handles that the log was applied up to `cursor`: the user's changes up to that event are now part of the messages. */
  onCursor(cursor: Seq): void {
    this.optimistic.onCursor(cursor);
    for (const [key, { acknowledged }] of this.#outgoing)
      if (acknowledged && acknowledged.seq <= cursor) this.#outgoing.delete(key);
    this.invalidate();
  }

  onEvent(event: Event): void {
    if (this.timeline.isSubscribed) this.#notices.addEvent(event);
    const shown = this.#owner.shownTimeline;
    if (shown?.hasOlder && shown.oldestSeq !== undefined) this.#notices.forgetBefore(shown.oldestSeq);
  }

  /** Finds a message in the form that the list shows, with unconfirmed changes. */
  findMessage(seq: Seq): StoredMessage | undefined {
    const message = this.#owner.shownTimeline?.findMessage(seq);
    return message && this.optimistic.applyTo(message);
  }

  /** Reads the notices between the messages of the list, if an app shows them. */
  loadNotices(): void {
    this.#notices
      .load(() => this.#noticeRange(), this.#owner)
      .then(
        (found) => found && this.timeline.invalidate(),
        // If the notices cannot be read now, they are read with the next page or the next connection.
        () => {},
      );
  }

  /** Forgets the notices, because others of the log's events are withheld now. `loadNotices` reads them again. */
  clearNotices(): void {
    this.#notices.clear();
  }

  clear(): void {
    this.#notices.clear();
    this.#lastMessages = [];
    this.optimistic.clear();
    this.invalidate();
  }

  #noticeRange(): NoticeRange | undefined {
    const { shownTimeline: shown, cursor } = this.#owner;
    if (!shown || cursor === undefined || !this.timeline.isSubscribed) return undefined;
    return { messages: shown.messages, beginning: this.#startsAtBeginning, cursor };
  }

  get #startsAtBeginning(): boolean {
    return this.#owner.shownTimeline?.hasOlder === false;
  }

  #computeMessages(): readonly ChatMessage[] {
    const shown = this.#owner.shownTimeline;
    const list: ChatMessage[] = (shown?.messages ?? []).map((message) => this.optimistic.applyTo(message));
    for (const entry of this.#outgoing.values()) {
      const message = this.#messageOf(entry);
      if (!shown?.hasMessage(message.id)) list.push(message);
    }
    // If no message has changed, the previous list is returned, so that apps need not render again.
    const same =
      list.length === this.#lastMessages.length && list.every((message, n) => message === this.#lastMessages[n]);
    return same ? this.#lastMessages : (this.#lastMessages = list);
  }

  #messageOf(entry: Entry): ChatMessage {
    const { currentState: state, error, acknowledged } = entry;
    const from = this.#owner.me ?? "";
    const before = this.#messageByEntry.get(entry);
    const same =
      before?.state === state && before.error === error && before.from === from && before.seq === acknowledged?.seq;
    if (before && same) return before;
    const { key, text, data, replyTo, time } = entry.message;
    const at = acknowledged?.at ?? new Date(time).toISOString();
    const message = compact<ChatMessage>({
      kind: "message",
      id: messageIdOf(from, key),
      seq: acknowledged?.seq,
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
    this.#messageByEntry.set(entry, message);
    return message;
  }
}
