// The user's messages that are not acknowledged. A message stays here, and in the storage, until the server has stored it. It is
// sent again with the same key after every lost connection, so it is stored once.

import { Alarm, type Clock } from "./clock.js";
import { compact } from "./compact.js";
import type { Connection } from "./connection.js";
import { ChatError, failure } from "./error.js";
import { makeKey } from "./key.js";
import { Entry } from "./outbox/entry.js";
import { joinTabs, type TabNotice } from "./outbox/tabs.js";
import type { Event, HeldBody, OkBody, StoredBody } from "./protocol.js";
import { Store } from "./store.js";
import type { Acknowledged, ChatOutbox, Draft, OutboxEntry, OutboxStorage } from "./types.js";
import { wellFormedJson } from "./well-formed.js";

export { Entry };

/** The most messages in flight; the others wait for the answers. */
const AT_ONCE = 32;
/** The first and the longest delay, in milliseconds, before the next attempt to use a storage that failed. */
const RETRY_DELAY = 1_000;
const MAX_RETRY_DELAY = 30_000;
/** The default time, in milliseconds, for which a message may wait here. */
const MAX_AGE = 24 * 3_600_000;

const backoff = (attempts: number): number => Math.min(MAX_RETRY_DELAY, RETRY_DELAY * 2 ** attempts);

export interface OutboxOwner {
  readonly me: string | undefined;
  /** Handles that an entry was added, changed or (with `gone`) removed. */
  onOutgoing(entry: Entry, gone: boolean): void;
  /** Handles that the server has stored the message, as this event. */
  onStored(entry: Entry, event: Event): void;
  report(error: ChatError): void;
}

export class Outbox implements ChatOutbox {
  readonly entries: Store<readonly OutboxEntry[]>;
  #entries = new Map<string, Entry>();
  /** Keys of removed entries, which a storage that is being read may still contain. */
  #gone = new Set<string>();
  #storage: OutboxStorage | null;
  /** Whether a failure of the storage was reported, and some entry is still not stored. */
  #storageFailed = false;
  /** Keys of entries that the storage refused. They are stored again after it has accepted another entry. */
  #unkept = new Set<string>();
  #keepAgain: Alarm;
  #keepAttempts = 0;
  /** The last use of the storage for each key. The next use waits for it, so that a deletion comes after the write. */
  #used = new Map<string, Promise<unknown>>();
  #tabs: ReturnType<typeof joinTabs> | undefined;
  /** The scope in the storage; `undefined` until the user is known. Only then are entries stored, including earlier ones. */
  #scope: string | undefined;
  #underWay = 0;
  #expiry: Alarm;
  #lastTime = 0;
  #closed = false;

  constructor(
    storage: OutboxStorage | null,
    readonly connection: Connection,
    readonly clock: Clock,
    readonly owner: OutboxOwner,
    readonly maxAge = MAX_AGE,
  ) {
    this.#storage = storage;
    this.#expiry = new Alarm(clock, () => this.#expire());
    this.#keepAgain = new Alarm(clock, () => this.#keepUnkept());
    this.entries = new Store<readonly OutboxEntry[]>(() =>
      [...this.#entries.values()].map(({ what }) => ({ ...what })),
    );
  }

  // ---- Methods for the app.

  submit(to: string, draft: Draft): Entry {
    // Two messages of the same millisecond get different times, so that they keep their order.
    this.#lastTime = Math.max(this.clock.wall(), this.#lastTime + 1);
    const what: OutboxEntry = { key: makeKey(), to, time: this.#lastTime };
    const refused = (error: ChatError) => {
      const entry = new Entry(what, { retry: () => entry.refuse(error), discard() {} }, 0);
      entry.setFailed(error);
      return entry;
    };
    if (this.#closed) return refused(failure("closed", "the chat was closed"));
    try {
      Object.assign(what, { ...JSON.parse(wellFormedJson(draft)), ...what });
    } catch (error) {
      return refused(failure("invalid", `this message is not JSON: ${String(error)}`, error));
    }
    const entry = this.#add(what);
    this.#keep(entry);
    this.connection.use();
    this.flush();
    return entry;
  }

  async clear(): Promise<void> {
    for (const entry of [...this.#entries.values()]) this.#remove(entry);
    const scope = this.#scope;
    if (!scope) return;
    this.#tell({ scope, type: "cleared" });
    const cleared = await this.#use(async (storage) => {
      const kept = await storage.load(scope);
      await Promise.all(kept.map(({ key }) => storage.delete(scope, key)));
      return true;
    });
    if (this.#storage && !cleared) throw failure("storage", "the outbox cannot be cleared");
  }

  retry(entry: Entry): void {
    if (this.#closed) return entry.refuse(failure("closed", "the chat was closed"));
    // A retried message gets a new time, like a new message. It keeps its key, so that it is not stored twice.
    const time = Math.max(this.clock.wall(), this.#lastTime + 1);
    entry.isOwn = true;
    this.#renew(entry, time);
    this.#keep(entry);
    this.#tellOf(entry, { type: "retried", time });
    this.connection.use();
    this.flush();
  }

  discard(entry: Entry): void {
    this.#remove(entry);
    this.#forget(entry.key);
    this.#tellOf(entry, { type: "discarded" });
  }

  // ---- Callbacks of the chat.

  /**
   * Sets the scope in the storage (server and user). `certain`: the server has named the user; otherwise only the token did.
   * Messages that an earlier page or another tab has stored in this scope are sent, too.
   */
  useScope(scope: string, certain: boolean): void {
    const before = this.#scope;
    if (before === scope || (before && !certain)) {
      if (certain) void this.#load(scope);
      return;
    }
    this.#scope = scope;
    if (this.#storage && !this.#closed) this.#tabs ??= joinTabs((notice) => this.#onNotice(notice));
    for (const entry of [...this.#entries.values()]) {
      // The server's name of the user differs from the token's: messages found under the token's name may be another user's.
      if (entry.found) this.#drop(entry);
      else {
        if (before) this.#forget(entry.key, before);
        this.#keep(entry);
      }
    }
    void this.#load(scope);
  }

  /** Sends waiting messages, in order. */
  flush(): void {
    this.#expire();
    if (!this.connection.online) return;
    for (const entry of this.#entries.values()) {
      if (this.#underWay >= AT_ONCE) return;
      if (!entry.underWay && (entry.current === "pending" || entry.asks)) this.#send(entry);
    }
  }

  /** Handles that the user's own message arrived with the log, before its answer or without one. */
  confirm(event: Acknowledged, key: string): void {
    const entry = this.#entries.get(key);
    if (!entry) return;
    entry.setSent(event);
    this.#drop(entry);
    this.#forget(key);
    this.#tellOf(entry, { type: "sent", acked: entry.stored! });
  }

  close(error: ChatError): void {
    this.#closed = true;
    for (const alarm of [this.#expiry, this.#keepAgain]) alarm.clear();
    this.#tabs?.leave();
    // The storage keeps the entries in their state, so the next page sends them.
    for (const entry of this.#entries.values()) if (entry.current !== "failed") entry.setFailed(error);
  }

  // ---- Entries.

  #add(what: OutboxEntry, found = false): Entry {
    const entry = new Entry(what, this, this.clock.now(), found);
    this.#entries.set(what.key, entry);
    this.#changed(entry);
    return entry;
  }

  #changed(entry: Entry, gone = false): void {
    this.entries.changed();
    this.owner.onOutgoing(entry, gone);
  }

  /** Removes an entry from memory, not from the storage. */
  #drop(entry: Entry): void {
    this.#entries.delete(entry.key);
    this.#changed(entry, true);
  }

  /** Removes an entry that was taken back, here or in another tab. */
  #remove(entry: Entry): void {
    this.#gone.add(entry.key);
    this.#drop(entry);
    entry.setFailed(failure("discarded", "the message was taken back"));
  }

  /** Makes the entry pending again, as the last one, with `time` as its time. */
  #renew(entry: Entry, time: number): void {
    this.#lastTime = Math.max(this.#lastTime, time);
    entry.what.time = time;
    entry.since = this.clock.now();
    if (entry.current === "failed") entry.setPending();
    this.#entries.delete(entry.key);
    this.#entries.set(entry.key, entry);
    this.#changed(entry);
  }

  #fail(entry: Entry, error: ChatError): void {
    const { code, message, retryable, field } = error;
    Object.assign(entry.what, { state: "failed", error: compact({ code, message, retryable, field }) });
    entry.setFailed(error);
    this.#changed(entry);
  }

  #send(entry: Entry): void {
    const { key, to, text, data, replyTo: reply_to } = entry.what;
    entry.what.attempts = (entry.what.attempts ?? 0) + 1;
    entry.underWay = true;
    entry.asks = false;
    this.#underWay++;
    const fields = { to, key, text, data: data as Record<string, unknown> | undefined, reply_to };
    const done = (reply: OkBody | ChatError) => {
      entry.underWay = false;
      this.#underWay--;
      if (reply instanceof ChatError) this.#onRefused(entry, reply);
      else this.#onAnswer(entry, reply as StoredBody | HeldBody);
    };
    // A message that was taken back, or has waited for too long, is not sent again.
    const wanted = () => this.#entries.get(key) === entry && this.#age(entry) < this.maxAge;
    this.connection.command(compact({ type: "send" as const, ...fields }), done, wanted);
  }

  #onAnswer(entry: Entry, body: StoredBody | HeldBody): void {
    if ("held" in body) {
      if (entry.current === "pending") {
        entry.setHeld();
        this.#keep(entry);
        this.#changed(entry);
      }
    } else {
      const { key, text, data, replyTo: reply_to } = entry.what;
      const { conversation, seq, at, event } = body;
      if (entry.current !== "sent") entry.setSent(body);
      if (event?.type === "message") Object.assign(entry.what, { text: event.text, data: event.data });
      // The message stays in the list until the log was applied up to it.
      this.#entries.delete(key);
      this.entries.changed();
      this.#forget(key);
      this.#tellOf(entry, { type: "sent", acked: entry.stored! });
      const own = { type: "message" as const, conversation, seq, from: this.owner.me, at, key, text, data, reply_to };
      this.owner.onStored(entry, event ?? (compact(own) as Event));
    }
    this.flush();
  }

  #onRefused(entry: Entry, error: ChatError): void {
    // Without a connection the message is sent again with the next connection, or by the next page.
    if (error.code === "offline" || error.code === "closed") return;
    if (error.code === "aborted" || entry.current === "sent" || !this.#entries.has(entry.key)) return this.flush();
    this.#fail(entry, error);
    this.#keep(entry);
    this.#tellOf(entry, { type: "failed", error: entry.what.error! });
    this.flush();
  }

  /** Milliseconds that a message has waited: the longer time of both clocks, because one may stop while the device sleeps. */
  #age({ what, since }: Entry): number {
    return Math.max(this.clock.wall() - what.time, this.clock.now() - since);
  }

  /** Fails messages that have waited too long; the user decides whether to retry them. */
  #expire(): void {
    this.#expiry.clear();
    for (const entry of this.#entries.values()) {
      if (entry.current !== "pending" || entry.underWay) continue;
      const left = this.maxAge - this.#age(entry);
      if (left > 0) {
        // The first entry is the oldest, so the alarm is set for it.
        if (left < Infinity) this.#expiry.set(left);
        return;
      }
      this.#fail(entry, failure("expired", "the message waited for too long"));
      // Another tab may have retried the message: only the tab that sent or retried it last changes the stored entry.
      if (entry.isOwn) this.#keep(entry);
    }
  }

  // ---- The storage.

  async #load(scope: string): Promise<void> {
    const found = await this.#use((storage) => storage.load(scope));
    if (this.#closed || this.#scope !== scope) return;
    for (const what of found ?? []) {
      if (!this.#entries.has(what.key) && !this.#gone.has(what.key)) this.#add(what, true);
    }
    const inOrder = [...this.#entries].sort(([, a], [, b]) => a.what.time - b.what.time);
    this.#entries = new Map(inOrder);
    this.flush();
  }

  #keep({ what }: Entry): void {
    const copy = { ...what };
    this.#useFor(what.key, async (storage, scope) => {
      this.#unkept.add(what.key);
      await storage.put(scope, copy);
      this.#onKept(what.key);
    });
  }

  #forget(key: string, from?: string): void {
    if (!from) this.#unkept.delete(key);
    this.#useFor(key, (storage, scope) => storage.delete(from ?? scope, key));
  }

  /** Handles that the storage accepted an entry: entries that it had refused are stored again later. */
  #onKept(key: string): void {
    this.#unkept.delete(key);
    if (!this.#unkept.size) {
      this.#storageFailed = false;
      this.#keepAttempts = 0;
    } else if (!this.#keepAgain.isSet && !this.#closed) {
      this.#keepAgain.set(backoff(this.#keepAttempts++));
    }
  }

  #keepUnkept(): void {
    for (const key of this.#unkept) {
      const entry = this.#entries.get(key);
      if (entry) this.#keep(entry);
      else this.#unkept.delete(key);
    }
  }

  #useFor(key: string, act: (storage: OutboxStorage, scope: string) => Promise<void>): void {
    const before = this.#used.get(key);
    const used = this.#use(before ? (storage, scope) => before.then(() => act(storage, scope)) : act);
    this.#used.set(key, used);
    void used.then(() => this.#used.get(key) === used && this.#used.delete(key));
  }

  async #use<T>(act: (storage: OutboxStorage, scope: string) => Promise<T>): Promise<T | undefined> {
    const storage = this.#storage;
    const scope = this.#scope;
    if (!storage || !scope) return undefined;
    try {
      return await act(storage, scope);
    } catch (error) {
      // The message is sent although it could not be stored; the failure is reported once.
      const text = `messages that are not sent yet cannot be kept: ${String(error)}`;
      if (!this.#storageFailed) this.owner.report(failure("storage", text, error));
      this.#storageFailed = true;
      return undefined;
    }
  }

  // ---- Other tabs.

  #tellOf(
    entry: Entry,
    notice: object & { type: TabNotice["type"]; acked?: Acknowledged; error?: OutboxEntry["error"]; time?: number },
  ): void {
    if (this.#scope) this.#tell({ scope: this.#scope, key: entry.key, ...notice } as TabNotice);
  }

  #tell(notice: TabNotice): void {
    this.#tabs?.tell(notice);
  }

  #onNotice(notice: TabNotice): void {
    if (notice.scope !== this.#scope) return;
    if (notice.type === "cleared") {
      for (const entry of [...this.#entries.values()]) this.#remove(entry);
      return;
    }
    if (notice.type === "discarded") this.#gone.add(notice.key);
    const entry = this.#entries.get(notice.key);
    if (!entry) return;
    if (notice.type === "discarded") this.#remove(entry);
    else if (notice.type === "sent") {
      entry.setSent(notice.acked);
      this.#entries.delete(entry.key);
      // The list shows the entry until the log was applied up to it.
      this.#changed(entry);
    } else if (notice.type === "failed" && entry.current === "pending" && !entry.underWay) {
      this.#fail(entry, new ChatError(notice.error));
    } else if (notice.type === "retried" && entry.current !== "sent") {
      // A tab with an older version of the SDK sends no time.
      this.#renew(entry, notice.time ?? this.clock.wall());
    }
  }
}
