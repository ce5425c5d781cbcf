// The user's messages that are not acknowledged. A message stays here, and in the storage, until the server has stored it. It is
// sent again with the same key after every lost connection, so it is stored once.

import { Alarm, type Clock } from "./clock.js";
import { compact } from "./compact.js";
import type { Connection } from "./connection.js";
import { ChatError, localError } from "./error.js";
import { makeKey } from "./key.js";
import { Entry } from "./outbox/entry.js";
import { joinTabs, type TabNotice } from "./outbox/tabs.js";
import type { Event, HeldBody, OkBody, StoredBody } from "./protocol.js";
import { Store } from "./store.js";
import type { Acknowledged, ChatOutbox, Draft, OutboxEntry, OutboxStorage } from "./types.js";
import { wellFormedJson } from "./well-formed.js";

export { Entry };

/** The most messages in flight; the others wait for the answers. */
const MAX_IN_FLIGHT = 32;
/** The first and the longest delay, in milliseconds, before the next attempt to use a storage that failed. */
const INITIAL_STORAGE_RETRY_MS = 1_000;
const MAX_STORAGE_RETRY_MS = 30_000;
/** The default time, in milliseconds, for which a message may wait here. */
const DEFAULT_MAX_AGE_MS = 24 * 3_600_000;

const storageRetryDelay = (attempts: number): number =>
  Math.min(MAX_STORAGE_RETRY_MS, INITIAL_STORAGE_RETRY_MS * 2 ** attempts);

export interface OutboxOwner {
  readonly me: string | undefined;
  /** Handles that an entry was added, changed or (with `gone`) removed. */
  onOutboxChange(entry: Entry, gone: boolean): void;
  /** Handles that the server has stored the message, as this event. */
  onMessageStored(entry: Entry, event: Event): void;
  report(error: ChatError): void;
}

export class Outbox implements ChatOutbox {
  readonly entries: Store<readonly OutboxEntry[]>;
  #entries = new Map<string, Entry>();
  /** Keys of removed entries, which a storage that is being read may still contain. */
  #removedKeys = new Set<string>();
  #storage: OutboxStorage | null;
  /** Whether a failure of the storage was reported, and some entry is still not stored. */
  #storageFailed = false;
  /** Keys of entries that the storage refused. They are stored again after it has accepted another entry. */
  #unstoredKeys = new Set<string>();
  #storageRetryAlarm: Alarm;
  #storageRetries = 0;
  /** The last use of the storage for each key. The next use waits for it, so that a deletion comes after the write. */
  #lastStorageUse = new Map<string, Promise<unknown>>();
  #tabs: ReturnType<typeof joinTabs> | undefined;
  /** The scope in the storage; `undefined` until the user is known. Only then are entries stored, including earlier ones. */
  #scope: string | undefined;
  #inFlight = 0;
  #expiryAlarm: Alarm;
  #lastMessageTime = 0;
  #closed = false;

  constructor(
    storage: OutboxStorage | null,
    readonly connection: Connection,
    readonly clock: Clock,
    readonly owner: OutboxOwner,
    readonly maxAge = DEFAULT_MAX_AGE_MS,
  ) {
    this.#storage = storage;
    this.#expiryAlarm = new Alarm(clock, () => this.#failExpired());
    this.#storageRetryAlarm = new Alarm(clock, () => this.#storeAgain());
    this.entries = new Store<readonly OutboxEntry[]>(() =>
      [...this.#entries.values()].map(({ message }) => ({ ...message })),
    );
  }

  // ---- Methods for the app.

  submit(to: string, draft: Draft): Entry {
    // Two messages of the same millisecond get different times, so that they keep their order.
    this.#lastMessageTime = Math.max(this.clock.wall(), this.#lastMessageTime + 1);
    const message: OutboxEntry = { key: makeKey(), to, time: this.#lastMessageTime };
    const refuseMessage = (error: ChatError) => {
      const entry = new Entry(message, { retry: () => entry.failRetry(error), discard() {} }, 0);
      entry.setFailed(error);
      return entry;
    };
    if (this.#closed) return refuseMessage(localError("closed", "the chat was closed"));
    try {
      Object.assign(message, { ...JSON.parse(wellFormedJson(draft)), ...message });
    } catch (error) {
      return refuseMessage(localError("invalid", `this message is not JSON: ${String(error)}`, error));
    }
    const entry = this.#addEntry(message);
    this.#store(entry);
    this.connection.connect();
    this.sendWaiting();
    return entry;
  }

  async clear(): Promise<void> {
    for (const entry of [...this.#entries.values()]) this.#removeDiscarded(entry);
    const scope = this.#scope;
    if (!scope) return;
    this.#notifyTabs({ scope, type: "cleared" });
    const cleared = await this.#useStorage(async (storage) => {
      const keptEntries = await storage.load(scope);
      await Promise.all(keptEntries.map(({ key }) => storage.delete(scope, key)));
      return true;
    });
    if (this.#storage && !cleared) throw localError("storage", "the outbox cannot be cleared");
  }

  retry(entry: Entry): void {
    if (this.#closed) return entry.failRetry(localError("closed", "the chat was closed"));
    // A retried message gets a new time, like a new message. It keeps its key, so that it is not stored twice.
    const time = Math.max(this.clock.wall(), this.#lastMessageTime + 1);
    entry.isOwn = true;
    this.#resetToPending(entry, time);
    this.#store(entry);
    this.#notifyTabsAbout(entry, { type: "retried", time });
    this.connection.connect();
    this.sendWaiting();
  }

  discard(entry: Entry): void {
    this.#removeDiscarded(entry);
    this.#deleteStored(entry.key);
    this.#notifyTabsAbout(entry, { type: "discarded" });
  }

  // ---- Callbacks of the chat.

  /**
   * Sets the scope in the storage (server and user). `certain`: the server has named the user; otherwise only the token did.
   * Messages that an earlier page or another tab has stored in this scope are sent, too.
   */
  setScope(scope: string, certain: boolean): void {
    const before = this.#scope;
    if (before === scope || (before && !certain)) {
      if (certain) void this.#loadStored(scope);
      return;
    }
    this.#scope = scope;
    if (this.#storage && !this.#closed) this.#tabs ??= joinTabs((notice) => this.#onTabNotice(notice));
    for (const entry of [...this.#entries.values()]) {
      // The server's name of the user differs from the token's: messages found under the token's name may be another user's.
      if (entry.isLoaded) this.#removeFromMemory(entry);
      else {
        if (before) this.#deleteStored(entry.key, before);
        this.#store(entry);
      }
    }
    void this.#loadStored(scope);
  }

  /** Sends waiting messages, in order. */
  sendWaiting(): void {
    this.#failExpired();
    if (!this.connection.online) return;
    for (const entry of this.#entries.values()) {
      if (this.#inFlight >= MAX_IN_FLIGHT) return;
      if (!entry.isInFlight && (entry.currentState === "pending" || entry.needsResend)) this.#sendEntry(entry);
    }
  }

  /** Handles that the user's own message arrived with the log, before its answer or without one. */
  onOwnMessage(event: Acknowledged, key: string): void {
    const entry = this.#entries.get(key);
    if (!entry) return;
    entry.setSent(event);
    this.#removeFromMemory(entry);
    this.#deleteStored(key);
    this.#notifyTabsAbout(entry, { type: "sent", acked: entry.acknowledged! });
  }

  close(error: ChatError): void {
    this.#closed = true;
    for (const alarm of [this.#expiryAlarm, this.#storageRetryAlarm]) alarm.clear();
    this.#tabs?.leave();
    // The storage keeps the entries in their state, so the next page sends them.
    for (const entry of this.#entries.values()) if (entry.currentState !== "failed") entry.setFailed(error);
  }

  // ---- Entries.

  #addEntry(message: OutboxEntry, found = false): Entry {
    const entry = new Entry(message, this, this.clock.now(), found);
    this.#entries.set(message.key, entry);
    this.#onEntryChange(entry);
    return entry;
  }

  #onEntryChange(entry: Entry, gone = false): void {
    this.entries.invalidate();
    this.owner.onOutboxChange(entry, gone);
  }

  /** Removes an entry from memory, not from the storage. */
  #removeFromMemory(entry: Entry): void {
    this.#entries.delete(entry.key);
    this.#onEntryChange(entry, true);
  }

  /** Removes an entry that was taken back, here or in another tab. */
  #removeDiscarded(entry: Entry): void {
    this.#removedKeys.add(entry.key);
    this.#removeFromMemory(entry);
    entry.setFailed(localError("discarded", "the message was taken back"));
  }

  /** Makes the entry pending again, as the last one, with `time` as its time. */
  #resetToPending(entry: Entry, time: number): void {
    this.#lastMessageTime = Math.max(this.#lastMessageTime, time);
    entry.message.time = time;
    entry.waitingSince = this.clock.now();
    if (entry.currentState === "failed") entry.setPending();
    this.#entries.delete(entry.key);
    this.#entries.set(entry.key, entry);
    this.#onEntryChange(entry);
  }

  #failEntry(entry: Entry, error: ChatError): void {
    const { code, message, retryable, field, permission } = error;
    Object.assign(entry.message, { state: "failed", error: compact({ code, message, retryable, field, permission }) });
    entry.setFailed(error);
    this.#onEntryChange(entry);
  }

  #sendEntry(entry: Entry): void {
    const { key, to, text, data, replyTo: reply_to } = entry.message;
    entry.message.attempts = (entry.message.attempts ?? 0) + 1;
    entry.isInFlight = true;
    entry.needsResend = false;
    this.#inFlight++;
    const fields = { to, key, text, data: data as Record<string, unknown> | undefined, reply_to };
    const onReply = (reply: OkBody | ChatError) => {
      entry.isInFlight = false;
      this.#inFlight--;
      if (reply instanceof ChatError) this.#onEntryRefused(entry, reply);
      else this.#onEntryAnswer(entry, reply as StoredBody | HeldBody);
    };
    // A message that was taken back, or has waited for too long, is not sent again.
    const isStillWanted = () => this.#entries.get(key) === entry && this.#waitedMs(entry) < this.maxAge;
    this.connection.command(compact({ type: "send" as const, ...fields }), onReply, isStillWanted);
  }

  #onEntryAnswer(entry: Entry, body: StoredBody | HeldBody): void {
    if ("held" in body) {
      if (entry.currentState === "pending") {
        entry.setHeld();
        this.#store(entry);
        this.#onEntryChange(entry);
      }
    } else {
      const { key, text, data, replyTo: reply_to } = entry.message;
      const { conversation, seq, at, event } = body;
      if (entry.currentState !== "sent") entry.setSent(body);
      if (event?.type === "message") Object.assign(entry.message, { text: event.text, data: event.data });
      // The message stays in the list until the log was applied up to it.
      this.#entries.delete(key);
      this.entries.invalidate();
      this.#deleteStored(key);
      this.#notifyTabsAbout(entry, { type: "sent", acked: entry.acknowledged! });
      const ownEvent = {
        type: "message" as const,
        conversation,
        seq,
        from: this.owner.me,
        at,
        key,
        text,
        data,
        reply_to,
      };
      this.owner.onMessageStored(entry, event ?? (compact(ownEvent) as Event));
    }
    this.sendWaiting();
  }

  #onEntryRefused(entry: Entry, error: ChatError): void {
    // Without a connection the message is sent again with the next connection, or by the next page.
    if (error.code === "offline" || error.code === "closed") return;
    if (error.code === "aborted" || entry.currentState === "sent" || !this.#entries.has(entry.key))
      return this.sendWaiting();
    this.#failEntry(entry, error);
    this.#store(entry);
    this.#notifyTabsAbout(entry, { type: "failed", error: entry.message.error! });
    this.sendWaiting();
  }

  /** Milliseconds that a message has waited: the longer time of both clocks, because one may stop while the device sleeps. */
  #waitedMs({ message, waitingSince }: Entry): number {
    return Math.max(this.clock.wall() - message.time, this.clock.now() - waitingSince);
  }

  /** Fails messages that have waited too long; the user decides whether to retry them. */
  #failExpired(): void {
    this.#expiryAlarm.clear();
    for (const entry of this.#entries.values()) {
      if (entry.currentState !== "pending" || entry.isInFlight) continue;
      const msUntilExpiry = this.maxAge - this.#waitedMs(entry);
      if (msUntilExpiry > 0) {
        // The first entry is the oldest, so the alarm is set for it.
        if (msUntilExpiry < Infinity) this.#expiryAlarm.set(msUntilExpiry);
        return;
      }
      this.#failEntry(entry, localError("expired", "the message waited for too long"));
      // Another tab may have retried the message: only the tab that sent or retried it last changes the stored entry.
      if (entry.isOwn) this.#store(entry);
    }
  }

  // ---- The storage.

  async #loadStored(scope: string): Promise<void> {
    const found = await this.#useStorage((storage) => storage.load(scope));
    if (this.#closed || this.#scope !== scope) return;
    for (const message of found ?? []) {
      if (!this.#entries.has(message.key) && !this.#removedKeys.has(message.key)) this.#addEntry(message, true);
    }
    const inOrder = [...this.#entries].sort(([, a], [, b]) => a.message.time - b.message.time);
    this.#entries = new Map(inOrder);
    this.sendWaiting();
  }

  #store({ message }: Entry): void {
    const storedCopy = { ...message };
    this.#useStorageForKey(message.key, async (storage, scope) => {
      this.#unstoredKeys.add(message.key);
      await storage.put(scope, storedCopy);
      this.#onEntryStored(message.key);
    });
  }

  #deleteStored(key: string, from?: string): void {
    if (!from) this.#unstoredKeys.delete(key);
    this.#useStorageForKey(key, (storage, scope) => storage.delete(from ?? scope, key));
  }

  /** Handles that the storage accepted an entry: entries that it had refused are stored again later. */
  #onEntryStored(key: string): void {
    this.#unstoredKeys.delete(key);
    if (!this.#unstoredKeys.size) {
      this.#storageFailed = false;
      this.#storageRetries = 0;
    } else if (!this.#storageRetryAlarm.isSet && !this.#closed) {
      this.#storageRetryAlarm.set(storageRetryDelay(this.#storageRetries++));
    }
  }

  #storeAgain(): void {
    for (const key of this.#unstoredKeys) {
      const entry = this.#entries.get(key);
      if (entry) this.#store(entry);
      else this.#unstoredKeys.delete(key);
    }
  }

  #useStorageForKey(key: string, act: (storage: OutboxStorage, scope: string) => Promise<void>): void {
    const before = this.#lastStorageUse.get(key);
    const storageUse = this.#useStorage(before ? (storage, scope) => before.then(() => act(storage, scope)) : act);
    this.#lastStorageUse.set(key, storageUse);
    void storageUse.then(() => this.#lastStorageUse.get(key) === storageUse && this.#lastStorageUse.delete(key));
  }

  async #useStorage<T>(act: (storage: OutboxStorage, scope: string) => Promise<T>): Promise<T | undefined> {
    const storage = this.#storage;
    const scope = this.#scope;
    if (!storage || !scope) return undefined;
    try {
      return await act(storage, scope);
    } catch (error) {
      // The message is sent although it could not be stored; the failure is reported once.
      const text = `messages that are not sent yet cannot be kept: ${String(error)}`;
      if (!this.#storageFailed) this.owner.report(localError("storage", text, error));
      this.#storageFailed = true;
      return undefined;
    }
  }

  // ---- Other tabs.

  #notifyTabsAbout(
    entry: Entry,
    notice: object & { type: TabNotice["type"]; acked?: Acknowledged; error?: OutboxEntry["error"]; time?: number },
  ): void {
    if (this.#scope) this.#notifyTabs({ scope: this.#scope, key: entry.key, ...notice } as TabNotice);
  }

  #notifyTabs(notice: TabNotice): void {
    this.#tabs?.notify(notice);
  }

  #onTabNotice(notice: TabNotice): void {
    if (notice.scope !== this.#scope) return;
    if (notice.type === "cleared") {
      for (const entry of [...this.#entries.values()]) this.#removeDiscarded(entry);
      return;
    }
    if (notice.type === "discarded") this.#removedKeys.add(notice.key);
    const entry = this.#entries.get(notice.key);
    if (!entry) return;
    if (notice.type === "discarded") this.#removeDiscarded(entry);
    else if (notice.type === "sent") {
      entry.setSent(notice.acked);
      this.#entries.delete(entry.key);
      // The list shows the entry until the log was applied up to it.
      this.#onEntryChange(entry);
    } else if (notice.type === "failed" && entry.currentState === "pending" && !entry.isInFlight) {
      this.#failEntry(entry, new ChatError(notice.error));
    } else if (notice.type === "retried" && entry.currentState !== "sent") {
      // A tab with an older version of the SDK sends no time.
      this.#resetToPending(entry, notice.time ?? this.clock.wall());
    }
  }
}
