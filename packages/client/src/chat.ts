// All of a user's conversations, over one connection.

import { type Clock, systemClock } from "./clock.js";
import { Commands } from "./commands.js";
import { Connection, type DebugLog, type ServerNotice } from "./connection.js";
import { runsInPage } from "./connection/network.js";
import { SavedCursors } from "./cursors.js";
import { RoomDirectory } from "./directory.js";
import { ChatError, localError } from "./error.js";
import { ignoreUnhandledRejection } from "./rejection.js";
import type { RoomOwner } from "./room-owner.js";
import { Inbox } from "./inbox.js";
import { indexedDbOutbox } from "./indexeddb.js";
import { makeKey } from "./key.js";
import { type Entry, Outbox } from "./outbox.js";
import { PresenceWatch } from "./presence.js";
import type { Command, Event, Limits, OkBody, Permissions, Seq, UserId, Welcome } from "./protocol.js";
import { Receipts } from "./receipts.js";
import { Room } from "./room.js";
import { Scheduler } from "./scheduler.js";
import { Emitter, type Store, Value } from "./store.js";
import type { RoomSummary } from "./summary.js";
import type { StoredMessage } from "./timeline.js";
import type { Chat, ChatEvents, ChatLimits, ChatOptions, ChatPermissions, ChatStatus } from "./types.js";
import type { CommandOptions, Conversation, Listening, NewRoom, Readable, UnreadTotal, UserPresence } from "./types.js";

/** Milliseconds after which a conversation without subscribers is released. */
const DEFAULT_RELEASE_AFTER_MS = 300_000;
/** The bytes that a cursor in `hello` takes besides the conversation's id. */
const BYTES_PER_CURSOR = 22;

/** Converts the names of fields in `welcome` to the names that an app sees: `hello_frame` becomes `helloFrame`. */
const camelCased = (fields: Limits | Permissions): never =>
  Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [name.replace(/_(.)/g, (_, letter) => letter.toUpperCase()), value]),
  ) as never;

/** A user blocks another one, or no longer blocks them: the command, and the signal to the user's other connections. */
interface Block {
  type: "block";
  user: UserId;
  on: boolean;
}
const isBlock = (frame: { type: string }): frame is Block => frame.type === "block";

const debugLogOf = (debug: ChatOptions["debug"]): DebugLog =>
  debug === true ? (line, ...details) => console.debug(`[switchboard] ${line}`, ...details) : debug || (() => {});

export class Switchboard implements Chat, RoomOwner {
  readonly status: Value<ChatStatus>;
  readonly user = new Value<UserId | undefined>(undefined);
  readonly permissions = new Value<ChatPermissions | undefined>(undefined);
  readonly conversations: Chat["conversations"];
  readonly unread: Readable<UnreadTotal>;
  readonly outbox: Outbox;
  readonly clock: Clock;
  readonly scheduler: Scheduler;
  readonly receipts: Receipts;
  readonly releaseAfter: number;
  readonly rooms: RoomDirectory;
  limits: ChatLimits | undefined;
  features: readonly string[] = [];
  #connection: Connection;
  #commands: Commands;
  #url: string;
  #events = new Emitter<ChatEvents>((error) => this.report(error));
  #inbox: Inbox;
  #presence: PresenceWatch;
  #savedCursors: SavedCursors | undefined;
  /** Whether the cursors of an earlier run are loaded; `undefined` while no listener needs them. */
  #savedCursorsState: "unknown" | "loading" | "known" | undefined;
  /** Whether the whole list of conversations was read once, so that any other conversation is a new one. */
  #inboxWasLoaded = false;
  closed = false;
  /** The cursors in the last `hello`. */
  #helloCursors: Record<string, Seq> = {};
  /** The user that the first `welcome` named. */
  #welcomedUser: UserId | undefined;

  constructor(url: string, options: ChatOptions) {
    this.#url = url;
    this.clock = options.clock ?? systemClock;
    this.releaseAfter = options.releaseAfter ?? DEFAULT_RELEASE_AFTER_MS;
    this.rooms = new RoomDirectory(
      () => this.me,
      (name) => new Room(name, this),
    );
    this.#connection = new Connection(url, options, this.clock, this, debugLogOf(options.debug));
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
    if (options.cursors) this.#savedCursors = new SavedCursors(options.cursors, this.clock, this.report);
    const { entries } = this.outbox;
    const { status, user, permissions } = this;
    const stores = [status, user, permissions, conversations, hasMore, unread, entries] as never as Store<never>[];
    for (const store of stores) Object.assign(store, { onUse: this.connect, report: this.report });
    if (options.user && options.token === undefined) this.onUser(options.user);
    if (options.start ?? runsInPage()) this.start();
  }

  // ---- Methods for the app.

  conversation(id: string): Conversation {
    return this.rooms.get(id);
  }

  create(room: NewRoom = {}, options?: CommandOptions): Promise<Conversation> {
    return ignoreUnhandledRejection(this.#create(room, options));
  }

  presence(user: UserId): UserPresence {
    return this.#presence.presenceOf(user);
  }

  async ready(options?: CommandOptions): Promise<Chat> {
    this.connect();
    await this.#commands.ready(options);
    return this;
  }

  command<T = Record<string, unknown>>(type: string, fields: object = {}, options?: CommandOptions): Promise<T> {
    return ignoreUnhandledRejection(this.call<T>({ ...fields, type } as unknown as Command, options));
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
    this.onOffline();
    for (const room of this.rooms) room.onClose();
    this.receipts.stop();
    void this.#savedCursors?.flush();
    this.outbox.close(localError("closed", "the chat was closed"));
  }

  on<K extends keyof ChatEvents>(
    event: K,
    listener: (value: ChatEvents[K]) => unknown,
    { replay = "all" }: Listening = {},
  ): () => void {
    const removeListener = this.#events.on(event, listener, replay);
    this.connect();
    if (event === "message" && replay === "all") this.#onFirstReplayListener();
    return () => void removeListener();
  }

  // ---- Methods for conversations.

  readonly connect = (): void => this.#connection.connect();

  get me(): UserId | undefined {
    return this.user.getSnapshot();
  }

  get online(): boolean {
    return this.#connection.online;
  }

  get wantsEveryMessage(): boolean {
    return this.#events.has("message", "all");
  }

  request<T>(command: Command, wanted?: () => boolean): Promise<T> {
    return this.#connection.request<OkBody>(command, wanted) as Promise<T>;
  }

  async call<T>(command: Command, options?: CommandOptions): Promise<T> {
    this.connect();
    const answer = await this.#commands.call<T>(command, options);
    // The server tells only the user's other connections.
    if (isBlock(command)) this.#onBlock(command);
    return answer;
  }

  initialCursor(conversation: string, summary: RoomSummary | undefined): Seq | "pending" | undefined {
    if (!this.wantsEveryMessage) return undefined;
    if (this.#savedCursorsState && this.#savedCursorsState !== "known") return "pending";
    const begin = this.#savedCursors?.get(conversation);
    if (begin !== undefined || !this.#inboxWasLoaded) return begin;
    // The conversation is newer than the list: its log begins at the first event, or at the event with which the user joined.
    return conversation[0] === "@" ? 0 : summary?.read;
  }

  lookUp(): void {
    this.#inbox.lookUp();
  }

  onRoomChange(): void {
    this.#inbox.invalidate();
  }

  onEventApplied(event: Event, message: StoredMessage | undefined, room: Room, live: boolean): void {
    const promises: Promise<unknown>[] = [];
    const { wantsEveryMessage } = this;
    if (message) {
      this.#presence.onDirectMessage(room.id, message.from);
      const value = { message, conversation: room };
      promises.push(...this.#events.collect("message", value, "all"));
      if (live) this.#events.emit("message", value, "none");
      if (message.from !== this.me) this.receipts.onReceived(room.id, event.seq);
    }
    if (wantsEveryMessage) this.#savedCursors?.onHandled(room.id, event.seq, promises);
  }

  onOutboxChange(entry: Entry, gone: boolean): void {
    this.rooms.getOrCreate(entry.message.to).onOutboxChange(entry, gone);
  }

  onMessageStored(entry: Entry, event: Event): void {
    this.rooms.getOrCreate(entry.message.to).onMessageStored(entry, event);
  }

  readonly report = (error: unknown): void => {
    const chatError = error instanceof ChatError ? error : localError("internal", String(error), error);
    // The app itself has closed the chat, so the error need not be reported.
    if (chatError.code === "closed") return;
    // An exception of the app is printed if no listener for errors would see it.
    if (chatError.code === "internal" && !this.#events.has("error")) console.error(chatError.cause ?? chatError);
    this.#events.emit("error", chatError);
  };

  // ---- Callbacks of the connection.

  onUser(user: UserId): void {
    // The chat's user does not change after the first `welcome`. If a new token is another user's, the next `welcome` shows it.
    if (this.me === user || this.#welcomedUser) return;
    this.user.set(user);
    this.rooms.onUser();
    this.outbox.setScope(this.#scope(user), false);
  }

  onPermissions(permissions: Permissions | undefined): void {
    const value = permissions && camelCased(permissions);
    // The value stays the same object over a reconnect, unless the permissions have changed.
    if (JSON.stringify(value) !== JSON.stringify(this.permissions.getSnapshot())) this.permissions.set(value);
  }

  /** The cursors of followed conversations, as many as fit: first those on the screen, then those with the latest activity. */
  helloCursors(bytes: number): Record<string, Seq> {
    this.#helloCursors = {};
    const rooms = [...new Set([...this.#inbox.sorted(), ...this.rooms])];
    for (const watched of [true, false]) {
      for (const room of rooms) {
        const { id, cursor } = room;
        const size = id.length + BYTES_PER_CURSOR;
        if (room.isWatched !== watched || !room.needsEveryEvent || !cursor || size > bytes) continue;
        bytes -= size;
        this.#helloCursors[id] = cursor;
      }
    }
    return this.#helloCursors;
  }

  onWelcome(frame: Welcome): void {
    const before = this.#inbox.sorted().length;
    this.limits = camelCased(frame.limits);
    this.features = frame.features ?? [];
    if (this.#welcomedUser && this.#welcomedUser !== frame.user) {
      // The user in `welcome` is not the one whose data the app shows.
      this.report(localError("unauthorized", "the token is another user's: connect anew"));
      return this.close();
    }
    this.onUser(frame.user);
    this.onPermissions(frame.permissions);
    this.#welcomedUser = frame.user;
    this.scheduler.start(frame.limits.frames_per_connection);
    this.#inbox.onWelcome(frame);
    const heads = new Map(frame.conversations.map(({ conversation, head }) => [conversation, head]));
    for (const room of this.rooms) room.onWelcome(room.id in this.#helloCursors, heads.get(room.id));
    for (const { conversation, received } of frame.conversations) this.receipts.confirm(conversation, received);
    void this.#inbox.catchUp(before);
    this.#inbox.resumeLookUp();
    this.receipts.sendSoon();
    this.outbox.setScope(this.#scope(frame.user), true);
    this.#presence.watchSoon();
    void this.#loadSavedCursors(frame.user);
  }

  onNotice(frame: ServerNotice): void {
    switch (frame.type) {
      case "presence": {
        const { user, online, last_seen: lastSeen } = frame;
        return this.#presence.onSignal(user, { online, ...(lastSeen && { lastSeen }) });
      }
      case "gap":
        return this.rooms.getOrCreate(frame.conversation).onGap(frame.head);
      case "error":
        if (frame.conversation !== undefined)
          this.rooms.getOrCreate(frame.conversation).onRefused(new ChatError(frame));
        return;
      case "typing":
        return this.rooms.getOrCreate(frame.conversation).onTypingSignal(frame.user);
      case "read":
        return this.rooms.getOrCreate(frame.conversation).onReadSignal(frame.user, frame.upto);
      case "received":
        return this.rooms.getOrCreate(frame.conversation).onReceivedSignal(frame.user, frame.upto);
      default:
        if (isBlock(frame)) this.#onBlock(frame);
        if ("seq" in frame && "conversation" in frame) this.rooms.getOrCreate(frame.conversation).onPushedEvent(frame);
        else this.#events.emit("frame", frame as never);
    }
  }

  onOffline(): void {
    this.scheduler.stop(localError("offline", "the connection was lost"));
    this.#inbox.onOffline();
    this.#presence.onOffline();
    for (const room of this.rooms) room.onOffline();
  }

  // ---- Callbacks of the inbox and the scheduler.

  onInboxLoaded(): void {
    if (!this.wantsEveryMessage || (this.#savedCursorsState && this.#savedCursorsState !== "known")) return;
    this.#inboxWasLoaded = true;
    const cursors = [...this.rooms].map((room): [string, Seq] => [room.id, room.cursor ?? room.summary?.head ?? 0]);
    this.#savedCursors?.setComplete(cursors);
  }

  onSummariesLoaded(): void {
    this.#presence.watchSoon();
  }

  onNoAnswer(): void {
    this.#connection.closeLost();
  }

  // ---- Private methods.

  /** Handles that the user has blocked another user, or no longer blocks them, on any device. */
  #onBlock({ user, on }: Block): void {
    for (const room of this.rooms) room.onBlock(user, on);
    this.lookUp();
  }

  async #create(room: NewRoom, options: CommandOptions | undefined): Promise<Conversation> {
    const { room: id = makeKey(), title, public: open = false, members = [] } = room;
    const command = { type: "create" as const, room: id, public: open, members, ...(title && { title }) };
    const answer = await this.call<{ conversation: string }>(command, options);
    this.lookUp();
    return this.rooms.getOrCreate(answer.conversation);
  }

  /** The name under which storages keep this user's data of this server. */
  #scope(user: UserId): string {
    return `${this.#url} ${user}`;
  }

  /** Handles the first listener that wants every message of all conversations. */
  #onFirstReplayListener(): void {
    if (this.#savedCursors && !this.#savedCursorsState) this.#savedCursorsState = "unknown";
    this.#inbox.loadAll();
    if (this.#welcomedUser) void this.#loadSavedCursors(this.#welcomedUser);
  }

  async #loadSavedCursors(user: UserId): Promise<void> {
    if (!this.#savedCursors || this.#savedCursorsState !== "unknown") return;
    this.#savedCursorsState = "loading";
    try {
      await this.#savedCursors.load(this.#scope(user));
    } catch (error) {
      // Without its cursors a bot cannot know which messages it has handled: it continues as on its first run, and reports that.
      this.report(localError("storage", "the cursors cannot be loaded", error));
    }
    this.#savedCursorsState = "known";
    this.#inboxWasLoaded ||= this.#savedCursors.complete;
    for (const name of this.#savedCursors.conversations) this.rooms.getOrCreate(name);
    for (const room of this.rooms) {
      const begin = this.initialCursor(room.id, room.summary);
      if (begin !== "pending") room.onSavedCursor(begin);
    }
    if (this.online) void this.#inbox.catchUp(0);
  }
}
