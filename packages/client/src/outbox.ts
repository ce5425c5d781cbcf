// What was said and is not acknowledged. A message stays here, and where a page can keep it, until the server says
// that it is stored; it is sent again with the same key after every loss, so it is stored once.

import type { Connection } from "./connection.js";
import { ChatError, failure } from "./error.js";
import type { StoredBody } from "./protocol.js";
import { compact } from "./timeline.js";
import type { Draft, OutboxEntry, OutboxStorage, Outgoing } from "./types.js";

/** Messages under way at once; the rest waits for their answers. */
const AT_ONCE = 32;
/** Milliseconds to wait when the server cannot store and does not say how long. */
const PAUSE = 1_000;

type Acked = { conversation: string; seq: number; at: string };

export class Entry implements Outgoing {
  state: Outgoing["state"] = "pending";
  error: ChatError | undefined;
  /** Where it stands in the log, once it is stored. */
  stored: Acked | undefined;
  underWay = false;
  acked!: Promise<Acked>;
  #resolve!: (acked: Acked) => void;
  #reject!: (error: ChatError) => void;

  constructor(
    readonly what: OutboxEntry,
    readonly outbox: Outbox,
  ) {
    this.#promise();
  }

  get key(): string {
    return this.what.key;
  }

  retry(): void {
    if (this.state !== "failed") return;
    this.state = "pending";
    this.error = undefined;
    this.#promise();
    this.outbox.changed(this);
    this.outbox.flush();
  }

  discard(): void {
    if (this.state === "sent") return;
    this.outbox.forget(this);
    this.failed(failure("closed", "discarded"));
  }

  sent({ conversation, seq, at }: Acked): void {
    this.state = "sent";
    this.#resolve((this.stored = { conversation, seq, at }));
  }

  failed(error: ChatError): void {
    this.state = "failed";
    this.error = error;
    this.#reject(error);
  }

  #promise(): void {
    this.acked = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever does not wait for it is told by the state.
    this.acked.catch(() => {});
  }
}

export interface Rooms {
  /** An entry came, changed, or went. */
  outgoing(entry: Entry, gone: boolean): void;
  /** The server has stored it. */
  stored(entry: Entry, body: StoredBody): void;
  failed(error: unknown): void;
}

export class Outbox {
  #entries = new Map<string, Entry>();
  #storage: OutboxStorage | null;
  #connection: Connection;
  #rooms: Rooms;
  /** Where entries are kept; known with the user. What is said before is put there then. */
  #scope: string | undefined;
  #underWay = 0;
  #paused: ReturnType<typeof setTimeout> | undefined;
  #lastTime = 0;

  constructor(storage: OutboxStorage | null, connection: Connection, rooms: Rooms) {
    this.#storage = storage;
    this.#connection = connection;
    this.#rooms = rooms;
  }

  submit(to: string, draft: Draft): Entry {
    // Two of one moment keep their order.
    this.#lastTime = Math.max(Date.now(), this.#lastTime + 1);
    const entry = this.#add({ ...(draft as OutboxEntry), key: uuid(), to, time: this.#lastTime });
    this.#keep(entry);
    this.#connection.use();
    this.flush();
    return entry;
  }

  /** The user is known: what an earlier page, or another tab, has left there is sent as well. */
  async restore(scope: string): Promise<void> {
    if (!this.#scope) {
      this.#scope = scope;
      for (const entry of this.#entries.values()) this.#keep(entry);
    }
    const left = (await this.#stored((storage) => storage.load(scope))) ?? [];
    for (const what of left) if (!this.#entries.has(what.key)) this.#add(what);
    this.flush();
  }

  /** Sends what waits, in its order. */
  flush(): void {
    if (this.#paused || !this.#connection.online) return;
    for (const entry of this.#entries.values()) {
      if (this.#underWay >= AT_ONCE) return;
      if (entry.state === "pending" && !entry.underWay) this.#send(entry);
    }
  }

  changed(entry: Entry): void {
    this.#rooms.outgoing(entry, false);
  }

  forget(entry: Entry): void {
    this.#drop(entry.key);
    this.#rooms.outgoing(entry, true);
  }

  /** A message of one's own came with the log, before or without an answer. */
  seen(event: Acked, key: string): void {
    const entry = this.#entries.get(key);
    if (!entry) return;
    entry.sent(event);
    this.forget(entry);
  }

  close(error: ChatError): void {
    clearTimeout(this.#paused);
    for (const entry of this.#entries.values()) if (entry.state === "pending") entry.failed(error);
  }

  #add(what: OutboxEntry): Entry {
    const entry = new Entry(what, this);
    this.#entries.set(what.key, entry);
    this.#rooms.outgoing(entry, false);
    return entry;
  }

  #send(entry: Entry): void {
    const { time, replyTo: reply_to, ...what } = entry.what;
    entry.underWay = true;
    this.#underWay++;
    this.#connection.command(compact({ type: "send" as const, ...what, reply_to }), (reply) => {
      entry.underWay = false;
      this.#underWay--;
      if (!(reply instanceof ChatError)) {
        if (entry.state !== "sent") entry.sent(reply as StoredBody);
        // It stays in the list until the log has come to it.
        this.#drop(what.key);
        this.#rooms.stored(entry, reply as StoredBody);
        this.flush();
      } else if (reply.code === "offline") {
        // It is said again when there is a connection.
      } else if (reply.retryable) {
        this.#pause(reply.retryAfter ?? PAUSE);
      } else if (entry.state === "pending") {
        entry.failed(reply);
        this.changed(entry);
        this.flush();
      }
    });
  }

  #pause(time: number): void {
    this.#paused ??= setTimeout(() => {
      this.#paused = undefined;
      this.flush();
    }, time);
  }

  #drop(key: string): void {
    this.#entries.delete(key);
    void this.#stored((storage, scope) => storage.delete(scope, key));
  }

  #keep(entry: Entry): void {
    void this.#stored((storage, scope) => storage.put(scope, entry.what));
  }

  async #stored<T>(use: (storage: OutboxStorage, scope: string) => Promise<T>): Promise<T | undefined> {
    try {
      return this.#storage && this.#scope ? await use(this.#storage, this.#scope) : undefined;
    } catch (error) {
      // Not kept, but sent all the same.
      this.#rooms.failed(error);
      return undefined;
    }
  }
}

/** `crypto.randomUUID` is there on secure pages only. */
export function uuid(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
