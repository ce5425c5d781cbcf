// All of a user's conversations, over one connection.

import { type Clock, systemClock } from "./clock.js";
import { Connection, type Log, NO_CONNECTION, type ServerNotice } from "./connection.js";
import { hasPage } from "./connection/network.js";
import { ChatError, failure } from "./error.js";
import { indexedDbOutbox } from "./indexeddb.js";
import { handled } from "./handled.js";
import { Outbox, uuid } from "./outbox.js";
import { PresenceWatch } from "./presence.js";
import type { ConversationsBody } from "./protocol.js";
import type { Command, Limits, OkBody, Summary, UserId, Welcome } from "./protocol.js";
import { canonical, type Host, Room } from "./room.js";
import { Emitter, Store, Value } from "./store.js";
import type { Chat, ChatEvents, ChatLimits, ChatMessage, ChatOptions, ChatStatus } from "./types.js";
import type { Conversation, ConversationInfo, NewRoom, Presence, Readable } from "./types.js";

/** How long a command waits for a connection, in milliseconds. */
const PATIENCE = 30_000;
/** Conversations of a page. */
const PAGE = 50;
/** Milliseconds in which arrivals are gathered before the server is told that they arrived. */
const RECEIVED_EVERY = 1_000;
/** Bytes of a cursor in `hello` besides the conversation's id. */
const CURSOR_BYTES = 22;

/** Limits of the wire, as the app sees them. */
const camelCased = (limits: Limits): ChatLimits =>
  Object.fromEntries(
    Object.entries(limits).map(([name, value]) => [name.replace(/_(.)/g, (_, letter) => letter.toUpperCase()), value]),
  ) as unknown as ChatLimits;

const closed = () => failure("closed", "the chat was closed");

const logOf = (debug: ChatOptions["debug"]): Log =>
  debug === true ? (line, ...details) => console.debug(`[switchboard] ${line}`, ...details) : debug || (() => {});

export class Switchboard implements Chat, Host {
  readonly status: Readable<ChatStatus>;
  readonly user = new Value<UserId | undefined>(undefined);
  readonly conversations: Chat["conversations"];
  readonly outbox: Outbox;
  readonly clock: Clock;
  limits: ChatLimits | undefined;
  #connection: Connection;
  #url: string;
  #rooms = new Set<Room>();
  #events = new Emitter<ChatEvents>();
  #inbox: Store<readonly ConversationInfo[]>;
  #presence: PresenceWatch;
  /** The cursors that the last `hello` said. */
  #said: Record<string, number> = {};
  /** The conversation after which the next page of the inbox begins; `null` when there is none. */
  #next: string | null = null;
  #more: Promise<boolean> | undefined;
  #learning = false;
  #learnAgain = false;
  #arrived = new Set<Room>();
  #received: ReturnType<typeof setTimeout> | undefined;
  #closed = false;
  /** Who one was welcomed as. */
  #known: UserId | undefined;

  constructor(url: string, options: ChatOptions) {
    this.#url = url;
    if (options.user && options.token === undefined) this.user.set(options.user);
    this.clock = options.clock ?? systemClock;
    const events = {
      cursors: (bytes: number) => this.#cursors(bytes),
      onUser: () => {},
      onWelcome: (frame: Welcome) => this.#welcome(frame),
      onNotice: (frame: ServerNotice) => this.#told(frame),
      onLost: () => this.#lost(),
      onError: (error: ChatError) => this.failed(error),
    };
    this.#connection = new Connection(url, options, this.clock, events, logOf(options.debug));
    this.status = this.#connection.status;
    this.outbox = new Outbox(options.outbox === undefined ? indexedDbOutbox() : options.outbox, this.#connection, {
      outgoing: (entry, gone) => this.#room(entry.what.to).shows(entry, gone),
      stored: (entry, body) => this.#room(entry.what.to).stored(entry, body),
      failed: (error) => this.failed(error),
    });
    this.#inbox = new Store<readonly ConversationInfo[]>(() =>
      this.#sorted().map((room) => room.info.getSnapshot() as ConversationInfo),
    );
    const { getSnapshot, getInitialSnapshot, subscribe } = this.#inbox;
    this.conversations = { getSnapshot, getInitialSnapshot, subscribe, loadMore: () => this.#extend(() => true) };
    this.#presence = new PresenceWatch(this, () => this.limits?.watch ?? PAGE);
    for (const store of [this.#connection.status, this.user, this.#inbox]) store.onUse = this.use;
    if (options.start ?? hasPage()) this.#connection.start();
  }

  // ---- What an app does.

  conversation(id: string): Conversation {
    return this.#room(id);
  }

  create(room: NewRoom): Promise<Conversation> {
    return handled(this.#create(room));
  }

  async #create({ room = uuid(), title, public: open = false, members = [] }: NewRoom): Promise<Conversation> {
    const command = { type: "create" as const, room, public: open, members, ...(title && { title }) };
    const stored = await this.call<{ conversation: string }>(command);
    this.learn();
    return this.#room(stored.conversation);
  }

  presence(user: UserId): Readable<Presence | undefined> {
    return this.#presence.of(user);
  }

  start(): void {
    this.#connection.start();
  }

  reconnect(): void {
    this.#connection.reconnect();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#received);
    this.#connection.close();
    this.#lost();
    this.outbox.close(closed());
  }

  on<K extends keyof ChatEvents>(event: K, listener: (value: ChatEvents[K]) => void): () => void {
    this.use();
    return this.#events.on(event, listener);
  }

  // ---- What conversations ask for.

  readonly use = (): void => this.#connection.use();

  get me(): UserId | undefined {
    return this.user.getSnapshot();
  }

  get online(): boolean {
    return this.#connection.online;
  }

  get follows(): boolean {
    return this.#events.has("message");
  }

  request<T>(command: Command): Promise<T> {
    return this.#connection.request<OkBody>(command) as Promise<T>;
  }

  async call<T>(command: Command): Promise<T> {
    const deadline = Date.now() + PATIENCE;
    for (;;) {
      await this.#isOnline(deadline);
      try {
        return await this.request<T>(command);
      } catch (error) {
        if (!(error instanceof ChatError) || !error.retryable || Date.now() > deadline) throw error;
        if (error.code !== "offline") await new Promise((done) => setTimeout(done, error.retryAfter ?? 1_000));
      }
    }
  }

  listed(): void {
    this.#inbox.changed();
  }

  heard(message: ChatMessage, room: Room): void {
    this.#events.emit("message", { message, conversation: room });
  }

  arrived(room: Room): void {
    this.#arrived.add(room);
    this.#received ??= setTimeout(() => {
      this.#received = undefined;
      for (const { id, cursor } of this.#arrived) {
        if (cursor && this.online) this.request({ type: "received", conversation: id, upto: cursor }).catch(() => {});
      }
      this.#arrived.clear();
    }, RECEIVED_EVERY);
  }

  failed(error: unknown): void {
    const known = error instanceof ChatError;
    this.#events.emit("error", known ? error : failure("offline", String(error)));
  }

  /** Looks for the summaries of conversations that are known by their events only. */
  learn(): void {
    this.#learnAgain = true;
    if (this.#learning || !this.online) return;
    this.#learning = true;
    void this.#learn().finally(() => (this.#learning = false));
  }

  // ----

  async #learn(): Promise<void> {
    try {
      while (this.#learnAgain) {
        this.#learnAgain = false;
        await this.#page(null, () => ![...this.#rooms].some((room) => room.unknown));
      }
      this.#presence.refresh();
    } catch (error) {
      this.failed(error);
    }
  }

  /** Reads pages of the inbox until it is enough; after which conversation there are more, if any. */
  async #page(before: string | null, enough: () => boolean): Promise<string | null> {
    do {
      const page: ConversationsBody = await this.call({
        type: "conversations",
        limit: PAGE,
        ...(before && { before }),
      });
      before = this.#meet(page);
    } while (before && !enough());
    return before;
  }

  #meet(page: ConversationsBody | Welcome): string | null {
    for (const summary of page.conversations) this.#room(summary.conversation).meet(summary, "user" in page);
    return (page.more && page.conversations.at(-1)?.conversation) || null;
  }

  /** Goes on where the inbox ends so far. */
  #extend(enough: () => boolean): Promise<boolean> {
    if (!this.#next) return Promise.resolve(false);
    this.#more ??= this.#page(this.#next, enough)
      .then((next) => {
        this.#next = next;
        return true;
      })
      .finally(() => (this.#more = undefined));
    return handled(this.#more);
  }

  #sorted(): Room[] {
    const at = (room: Room) => (room.summary as Summary).at;
    const rooms = [...this.#rooms].filter((room) => room.summary);
    return rooms.sort((a, b) => (at(a) < at(b) ? 1 : at(a) > at(b) ? -1 : 0));
  }

  #room(name: string): Room {
    const id = canonical(name, this.me);
    for (const room of this.#rooms) if (room.id === id) return room;
    const room = new Room(id, this);
    this.#rooms.add(room);
    return room;
  }

  /** The cursors of what is followed, as many as fit, latest activity first. */
  #cursors(bytes: number): Record<string, number> {
    this.#said = {};
    const rooms = [...new Set([...this.#sorted(), ...this.#rooms])];
    for (const { id, cursor, followed } of rooms) {
      bytes -= id.length + CURSOR_BYTES;
      if (followed && cursor !== undefined && bytes > 0) this.#said[id] = cursor;
    }
    return this.#said;
  }

  #welcome(frame: Welcome): void {
    const known = this.#sorted().length;
    this.limits = camelCased(frame.limits);
    if (this.#known && this.#known !== frame.user) {
      // What is on the screen is another's.
      this.failed(failure("unauthorized", "the token is another user's: connect anew"));
      return this.close();
    }
    this.#known = frame.user;
    this.user.set(frame.user);
    const told = new Set(frame.conversations.map((summary) => summary.conversation));
    for (const room of this.#rooms) if (!told.has(room.id)) room.forget();
    this.#next = this.#meet(frame);
    for (const room of this.#rooms) room.resume(this.#said, told.has(room.id));
    // As many as there were before.
    const enough = () => this.#sorted().length >= known;
    if (!enough()) void this.#extend(enough);
    void this.outbox.restore(`${this.#url} ${frame.user}`);
    this.#presence.refresh();
    if (this.#learnAgain) this.learn();
  }

  #told(frame: ServerNotice): void {
    if (frame.type === "presence") {
      const { user, online, last_seen: lastSeen } = frame;
      return this.#presence.heard(user, { online, ...(lastSeen && { lastSeen }) });
    }
    if (!("conversation" in frame) || frame.conversation === undefined) return;
    const room = this.#room(frame.conversation);
    switch (frame.type) {
      case "gap":
        return void room.resync();
      case "error":
        return room.refused(new ChatError(frame));
      case "typing":
        return room.typing.started(frame.user);
      case "read":
        return room.reads(frame.user, frame.upto);
      case "received":
        return room.members.moved(frame.user, { received: frame.upto });
      default:
        if ("seq" in frame) room.receive(frame);
    }
  }

  #lost(): void {
    this.#presence.lost();
    for (const room of this.#rooms) room.lost();
  }

  #isOnline(deadline: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const end = (error?: ChatError | false) => {
        clearTimeout(timer);
        queueMicrotask(() => stop());
        if (error) reject(error);
        else resolve();
      };
      const timer = setTimeout(() => end(failure("offline", NO_CONNECTION)), deadline - Date.now());
      const stop = this.status.subscribe(({ state, retryIn, error }) => {
        if (state === "online") end();
        else if (this.#closed) end(closed());
        // Nobody tries any more.
        else if (state === "offline" && retryIn === undefined) end(error ?? failure("offline", NO_CONNECTION));
      });
    });
  }
}
