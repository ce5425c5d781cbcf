// All of a user's conversations, over one connection.

import { type Clock, systemClock } from "./clock.js";
import { Commands } from "./commands.js";
import { Connection, type Log, type ServerNotice } from "./connection.js";
import { hasPage } from "./connection/network.js";
import { SavedCursors } from "./cursors.js";
import { Directory } from "./directory.js";
import { ChatError, failure } from "./error.js";
import { handled } from "./handled.js";
import type { Host } from "./host.js";
import { Inbox } from "./inbox.js";
import { indexedDbOutbox } from "./indexeddb.js";
import { makeKey } from "./key.js";
import { type Entry, Outbox } from "./outbox.js";
import { PresenceWatch } from "./presence.js";
import type { Command, Event, Limits, OkBody, Seq, UserId, Welcome } from "./protocol.js";
import { Receipts } from "./receipts.js";
import { Room } from "./room.js";
import { Scheduler } from "./scheduler.js";
import { Emitter, type Store, Value } from "./store.js";
import type { Known } from "./summary.js";
import type { StoredMessage } from "./timeline.js";
import type { Chat, ChatEvents, ChatLimits, ChatOptions, ChatStatus, CommandOptions, Conversation } from "./types.js";
import type { Listening, NewRoom, Readable, UnreadTotal, UserPresence } from "./types.js";

/** Milliseconds after which a conversation without subscribers is released. */
const RELEASE_AFTER = 300_000;
/** The bytes that a cursor in `hello` takes besides the conversation's id. */
const CURSOR_BYTES = 22;

/** Converts the names of the limits in `welcome` to the names that an app sees: `hello_frame` becomes `helloFrame`. */
const camelCased = (limits: Limits): ChatLimits =>
  Object.fromEntries(
    Object.entries(limits).map(([name, value]) => [name.replace(/_(.)/g, (_, letter) => letter.toUpperCase()), value]),
  ) as unknown as ChatLimits;

const logOf = (debug: ChatOptions["debug"]): Log =>
  debug === true ? (line, ...details) => console.debug(`[switchboard] ${line}`, ...details) : debug || (() => {});

export class Switchboard implements Chat, Host {
  readonly status: Value<ChatStatus>;
  readonly user = new Value<UserId | undefined>(undefined);
  readonly conversations: Chat["conversations"];
  readonly unread: Readable<UnreadTotal>;
  readonly outbox: Outbox;
  readonly clock: Clock;
  readonly scheduler: Scheduler;
  readonly receipts: Receipts;
  readonly releaseAfter: number;
  readonly rooms: Directory;
  limits: ChatLimits | undefined;
  features: readonly string[] = [];
  #connection: Connection;
  #commands: Commands;
  #url: string;
  #events = new Emitter<ChatEvents>((error) => this.report(error));
  #inbox: Inbox;
  #presence: PresenceWatch;
  #saved: SavedCursors | undefined;
  /** Whether the cursors of an earlier run are loaded; `undefined` while no listener needs them. */
  #savedIs: "unknown" | "loading" | "known" | undefined;
  /** Whether the whole list of conversations was read once, so that any other conversation is a new one. */
  #complete = false;
  closed = false;
  /** The cursors in the last `hello`. */
  #given: Record<string, Seq> = {};
  /** The user that the first `welcome` named. */
  #welcomed: UserId | undefined;

  constructor(url: string, options: ChatOptions) {
    this.#url = url;
    this.clock = options.clock ?? systemClock;
    this.releaseAfter = options.releaseAfter ?? RELEASE_AFTER;
    this.rooms = new Directory(
      () => this.me,
      (name) => new Room(name, this),
    );
    this.#connection = new Connection(url, options, this.clock, this, logOf(options.debug));
    this.status = this.#connection.status;
    this.#commands = new Commands(this);
    this.scheduler = new Scheduler(this);
    this.receipts = new Receipts(this.clock, this.scheduler);
    const storage = options.outbox === undefined ? indexedDbOutbox(this.clock) : options.outbox;
    this.outbox = new Outbox(storage, this.#connection, this.clock, this, options.maxAge);
    this.#inbox = new Inbox(this);
    const { conversations, hasMore, unread } = this.#inbox;
    const loadMore = (options?: CommandOptions) => this.#inbox.loadMore(options);
    this.conversations = Object.assign(conversations, { hasMore, loadMore });
    this.unread = unread;
    this.#presence = new PresenceWatch(this);
    if (options.cursors) this.#saved = new SavedCursors(options.cursors, this.clock, this.report);
    const { entries } = this.outbox;
    const stores = [this.status, this.user, conversations, hasMore, unread, entries] as never as Store<never>[];
    for (const store of stores) Object.assign(store, { onUse: this.use, report: this.report });
    if (options.user && options.token === undefined) this.onUser(options.user);
    if (options.start ?? hasPage()) this.start();
  }

  // ---- Methods for the app.

  conversation(id: string): Conversation {
    return this.rooms.get(id);
  }

  create(room: NewRoom = {}, options?: CommandOptions): Promise<Conversation> {
    return handled(this.#create(room, options));
  }

  presence(user: UserId): UserPresence {
    return this.#presence.of(user);
  }

  async ready(options?: CommandOptions): Promise<Chat> {
    this.use();
    await this.#commands.ready(options);
    return this;
  }

  command<T = Record<string, unknown>>(type: string, fields: object = {}, options?: CommandOptions): Promise<T> {
    return handled(this.call<T>({ ...fields, type } as unknown as Command, options));
  }

  start(): void {
    this.#connection.start();
  }

  reconnect(): void {
    this.#connection.reconnect();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.#connection.close();
    this.onLost();
    for (const room of this.rooms) room.onClose();
    this.receipts.stop();
    void this.#saved?.flush();
    this.outbox.close(failure("closed", "the chat was closed"));
  }

  on<K extends keyof ChatEvents>(
    event: K,
    listener: (value: ChatEvents[K]) => unknown,
    { replay = "all" }: Listening = {},
  ): () => void {
    const off = this.#events.on(event, listener, replay);
    this.use();
    if (event === "message" && replay === "all") this.#onReplayWanted();
    return () => void off();
  }

  // ---- Methods for conversations.

  readonly use = (): void => this.#connection.use();

  get me(): UserId | undefined {
    return this.user.getSnapshot();
  }

  get online(): boolean {
    return this.#connection.online;
  }

  get replaysAll(): boolean {
    return this.#events.has("message", "all");
  }

  request<T>(command: Command, wanted?: () => boolean): Promise<T> {
    return this.#connection.request<OkBody>(command, wanted) as Promise<T>;
  }

  call<T>(command: Command, options?: CommandOptions): Promise<T> {
    this.use();
    return this.#commands.call<T>(command, options);
  }

  baseline(conversation: string, summary: Known | undefined): Seq | "pending" | undefined {
    if (!this.replaysAll) return undefined;
    if (this.#savedIs && this.#savedIs !== "known") return "pending";
    const begin = this.#saved?.get(conversation);
    if (begin !== undefined || !this.#complete) return begin;
    // The conversation is newer than the list: its log begins at the first event, or at the event with which the user joined.
    return conversation[0] === "@" ? 0 : summary?.read;
  }

  lookUp(): void {
    this.#inbox.lookUp();
  }

  onRoomChange(): void {
    this.#inbox.changed();
  }

  onEvent(event: Event, message: StoredMessage | undefined, room: Room, live: boolean): void {
    const promises: Promise<unknown>[] = [];
    const { replaysAll } = this;
    if (message) {
      const value = { message, conversation: room };
      promises.push(...this.#events.collect("message", value, "all"));
      if (live) this.#events.emit("message", value, "none");
      if (message.from !== this.me) this.receipts.note(room.id, event.seq);
    }
    if (replaysAll) this.#saved?.onHandled(room.id, event.seq, promises);
  }

  onOutgoing(entry: Entry, gone: boolean): void {
    this.rooms.of(entry.what.to).onOutboxChange(entry, gone);
  }

  onStored(entry: Entry, event: Event): void {
    this.rooms.of(entry.what.to).onStored(entry, event);
  }

  readonly report = (error: unknown): void => {
    const known = error instanceof ChatError ? error : failure("internal", String(error), error);
    // The app itself has closed the chat, so the error need not be reported.
    if (known.code === "closed") return;
    // An exception of the app is printed if no listener for errors would see it.
    if (known.code === "internal" && !this.#events.has("error")) console.error(known.cause ?? known);
    this.#events.emit("error", known);
  };

  // ---- Callbacks of the connection.

  onUser(user: UserId): void {
    // The chat's user does not change after the first `welcome`. If a new token is another user's, the next `welcome` shows it.
    if (this.me === user || this.#welcomed) return;
    this.user.set(user);
    this.rooms.onUser();
    this.outbox.useScope(this.#scope(user), false);
  }

  /** The cursors of followed conversations, as many as fit: first those on the screen, then those with the latest activity. */
  cursors(bytes: number): Record<string, Seq> {
    this.#given = {};
    const rooms = [...new Set([...this.#inbox.sorted(), ...this.rooms])];
    for (const watched of [true, false]) {
      for (const room of rooms) {
        const { id, cursor } = room;
        const size = id.length + CURSOR_BYTES;
        if (room.watched !== watched || !room.followed || !cursor || size > bytes) continue;
        bytes -= size;
        this.#given[id] = cursor;
      }
    }
    return this.#given;
  }

  onWelcome(frame: Welcome): void {
    const before = this.#inbox.sorted().length;
    this.limits = camelCased(frame.limits);
    this.features = frame.features ?? [];
    if (this.#welcomed && this.#welcomed !== frame.user) {
      // The user in `welcome` is not the one whose data the app shows.
      this.report(failure("unauthorized", "the token is another user's: connect anew"));
      return this.close();
    }
    this.onUser(frame.user);
    this.#welcomed = frame.user;
    this.scheduler.start(frame.limits.frames_per_connection);
    this.#inbox.onWelcome(frame);
    const heads = new Map(frame.conversations.map(({ conversation, head }) => [conversation, head]));
    for (const room of this.rooms) room.onWelcome(room.id in this.#given, heads.get(room.id));
    for (const { conversation, received } of frame.conversations) this.receipts.confirm(conversation, received);
    void this.#inbox.catchUp(before);
    this.#inbox.resume();
    this.receipts.flush();
    this.outbox.useScope(this.#scope(frame.user), true);
    this.#presence.refresh();
    void this.#loadHeard(frame.user);
  }

  onNotice(frame: ServerNotice): void {
    switch (frame.type) {
      case "presence": {
        const { user, online, last_seen: lastSeen } = frame;
        return this.#presence.onSignal(user, { online, ...(lastSeen && { lastSeen }) });
      }
      case "gap":
        return this.rooms.of(frame.conversation).onGap(frame.head);
      case "error":
        if (frame.conversation !== undefined) this.rooms.of(frame.conversation).onRefused(new ChatError(frame));
        return;
      case "typing":
        return this.rooms.of(frame.conversation).onTypingSignal(frame.user);
      case "read":
        return this.rooms.of(frame.conversation).onReadSignal(frame.user, frame.upto);
      case "received":
        return this.rooms.of(frame.conversation).onReceivedSignal(frame.user, frame.upto);
      default:
        if ("seq" in frame && "conversation" in frame) this.rooms.of(frame.conversation).onEvent(frame);
        else this.#events.emit("frame", frame as never);
    }
  }

  onLost(): void {
    this.scheduler.stop(failure("offline", "the connection was lost"));
    this.#inbox.onLost();
    this.#presence.onLost();
    for (const room of this.rooms) room.onLost();
  }

  // ---- Callbacks of the inbox and the scheduler.

  onComplete(): void {
    if (!this.replaysAll || (this.#savedIs && this.#savedIs !== "known")) return;
    this.#complete = true;
    const cursors = [...this.rooms].map((room): [string, Seq] => [room.id, room.cursor ?? room.summary?.head ?? 0]);
    this.#saved?.setComplete(cursors);
  }

  onFound(): void {
    this.#presence.refresh();
  }

  onNoAnswer(): void {
    this.#connection.giveUp();
  }

  // ---- Private methods.

  async #create(room: NewRoom, options: CommandOptions | undefined): Promise<Conversation> {
    const { room: id = makeKey(), title, public: open = false, members = [] } = room;
    const command = { type: "create" as const, room: id, public: open, members, ...(title && { title }) };
    const answer = await this.call<{ conversation: string }>(command, options);
    this.lookUp();
    return this.rooms.of(answer.conversation);
  }

  /** The name under which storages keep this user's data of this server. */
  #scope(user: UserId): string {
    return `${this.#url} ${user}`;
  }

  /** Handles the first listener that wants every message of all conversations. */
  #onReplayWanted(): void {
    if (this.#saved && !this.#savedIs) this.#savedIs = "unknown";
    this.#inbox.readAll();
    if (this.#welcomed) void this.#loadHeard(this.#welcomed);
  }

  async #loadHeard(user: UserId): Promise<void> {
    if (!this.#saved || this.#savedIs !== "unknown") return;
    this.#savedIs = "loading";
    try {
      await this.#saved.load(this.#scope(user));
    } catch (error) {
      // Without its cursors a bot cannot know which messages it has handled: it continues as on its first run, and reports that.
      this.report(failure("storage", "the cursors cannot be loaded", error));
    }
    this.#savedIs = "known";
    this.#complete ||= this.#saved.complete;
    for (const name of this.#saved.conversations) this.rooms.of(name);
    for (const room of this.rooms) {
      const begin = this.baseline(room.id, room.summary);
      if (begin !== "pending") room.onSavedCursor(begin);
    }
    if (this.online) void this.#inbox.catchUp(0);
  }
}
