// The types that an app uses. The types of the protocol's frames are in `protocol.ts`, which is generated.

import type { Clock } from "./clock.js";
import type { ChatError } from "./error.js";
import type { ConversationId, Edited, Event, Limits, Member, Permissions, Role } from "./protocol.js";
import type { Seq, Timestamp, UserId } from "./protocol.js";

/** A conversation's role: what a member may do. */
export type ChatRole = Role;

/** A member of a conversation: the role, and the read and received cursors. */
export type ConversationMember = Member;

/**
 * The type of a message's `data`. An app declares it:
 *
 *     declare module "@switchboard/client" { interface MessageData { order?: Order } }
 */
// eslint-disable-next-line @typescript-eslint/no-empty-object-type -- it is there for apps to add to.
export interface MessageData {}

/** `MessageData` if the app has declared it, otherwise any object. */
export type AnyData = keyof MessageData extends never ? Record<string, unknown> : MessageData;

/** The type of `data` in a message that is sent: `MessageData` if the app has declared it, otherwise any object type. */
export type DraftData = keyof MessageData extends never ? object : MessageData;

/** A type of the protocol, with the app's type for each field `data`. */
export type WithData<T> = T extends object ? { [K in keyof T]: K extends "data" ? AnyData : WithData<T[K]> } : T;

type CamelCase<S extends string> = S extends `${infer Head}_${infer Tail}`
  ? `${Head}${Capitalize<CamelCase<Tail>>}`
  : S;

/** The server's limits; see `welcome.limits` in docs/protocol.md. Sizes are in bytes, times in milliseconds. */
export type ChatLimits = { readonly [K in keyof Limits as CamelCase<K>]: Limits[K] };

/** What the user may do, so that an app offers nothing else; see "Permissions" in docs/protocol.md. */
export type ChatPermissions = { readonly [K in keyof Permissions as CamelCase<K>]: Permissions[K] };

/** An event of a conversation's log. */
export type ChatEvent =
  WithData<Event> extends infer E
    ? E extends { type: "message" }
      ? Omit<E, "reply_to"> & { replyTo?: Seq }
      : E
    : never;

/** A value that changes. `getSnapshot` returns the same object until the value has changed. */
export interface Readable<T> {
  getSnapshot(): T;
  /** The value before anything was loaded: a page that a server has rendered shows it until it is hydrated. */
  getInitialSnapshot?(): T;
  /** Calls `listener` with the value now and after each change; once for all changes within a task. */
  subscribe(listener: (value: T) => void): () => void;
}

/** The state of the connection. */
export interface ChatStatus {
  /** `idle` before the first attempt and after `close()`; `offline` between attempts, or for good. */
  readonly state: "idle" | "connecting" | "online" | "offline";
  /** The WebSocket's close code, if a connection was lost. */
  readonly code?: number;
  /** Why the chat is offline, for a user: the server's text if it sent one. */
  readonly reason?: string;
  /** Milliseconds from the change of the status to the next attempt. If absent while offline, there will be no attempt. */
  readonly retryIn?: number;
  /** The last error of the server or of the token function. */
  readonly error?: ChatError;
}

/** A storage for entries of the outbox, so that they survive a reload. Calls for different keys may overlap. */
export interface OutboxStorage {
  /** All entries of `scope` (a server and a user), in the order in which they were put. */
  load(scope: string): Promise<OutboxEntry[]>;
  put(scope: string, entry: OutboxEntry): Promise<void>;
  delete(scope: string, key: string): Promise<void>;
}

/** A message that is not acknowledged yet. */
export interface OutboxEntry extends Omit<Draft, "data"> {
  data?: AnyData;
  key: string;
  to: string;
  /** When the message was sent, by the clock of the device, in milliseconds since the Unix epoch. */
  time: number;
  /** The state; absent while the message is pending. */
  state?: "held" | "failed";
  /** Why the message failed. */
  error?: { code: ChatError["code"]; message: string; retryable: boolean; field?: string; permission?: string };
  /** How often the message was sent to the server. */
  attempts?: number;
}

/** The user's unacknowledged messages of all conversations. */
export interface ChatOutbox {
  readonly entries: Readable<readonly OutboxEntry[]>;
  /** Takes back all messages, also those that other tabs have stored for this user, so that signing out leaves none. */
  clear(): Promise<void>;
}

/** A storage for how far a bot has handled each conversation, so that it continues there after a restart. */
export interface CursorStorage {
  /** Returns all that was saved under `scope` (a server and a user). The app need not understand the names and numbers. */
  load(scope: string): Promise<Record<string, number>>;
  /** Saves these cursors; those that were saved under other names stay. */
  save(scope: string, cursors: Record<string, number>): Promise<void>;
}

/** Reports that the network is back or that the app becomes visible. By default the browser's events are used. */
export interface NetworkSource {
  /** Whether the app may be visible to a user now. */
  visible(): boolean;
  /**
   * Calls `listener` when the network is back (`online`) and when the app becomes visible (`visible`). Returns a function
   * that ends the subscription.
   */
  subscribe(listener: (event: "online" | "visible") => void): () => void;
}

export interface ChatOptions {
  /**
   * A JWT, or a function that returns one. The function is called when there is no token yet, when the last one expires
   * within 30 s, or when the server no longer accepts it. `signal` is aborted when the result is no longer needed, at the
   * latest after 30 s. If the function throws, it is called again later; an `UnauthorizedError` ends the attempts.
   */
  token?: string | ((context: { signal: AbortSignal }) => string | Promise<string>);
  /**
   * On a `dev` server: the user's name, in place of a token. With a token: the token's user, if its `sub` does not name the
   * user; messages that are sent before the first connection are stored under that name.
   */
  user?: UserId;
  /** A stable name of this device. */
  device?: string;
  /** The storage for unacknowledged messages: by default IndexedDB if the platform has it; `null` for memory only. */
  outbox?: OutboxStorage | null;
  /** Milliseconds that a message may wait, 24 hours by default; then it fails with `expired`, and can be sent again. */
  maxAge?: number;
  /**
   * The storage for how far the listeners of `on("message")` have handled each conversation. With it, a bot receives each
   * message that it has missed after a restart, at least once. None by default.
   */
  cursors?: CursorStorage;
  /**
   * Milliseconds after which a conversation without subscribers is released: 5 minutes by default, `Infinity` for
   * never.
   */
  releaseAfter?: number;
  /**
   * Whether the chat connects at once. By default it does so in a page or in a worker of a page; elsewhere it connects with
   * the first `subscribe`, `on`, `send`, command, `ready()` or `start()`, so that a server that renders pages does not
   * connect. With `false`, only `start()` or `reconnect()` connects.
   */
  start?: boolean;
  /** The WebSocket class to use, if the platform has none or the app needs another one. */
  WebSocket?: new (url: string, protocols?: string | string[]) => WebSocket;
  /** Reports that the network is back or that the app becomes visible. */
  network?: NetworkSource;
  /** Logs the events of the connection: `true` writes lines to the console. No line contains a token or a text. */
  debug?: boolean | ((line: string, ...details: unknown[]) => void);
  /** For tests: another clock. */
  clock?: Clock;
}

/** The content of a message. */
export interface Draft {
  text?: string | undefined;
  /** Data of the application. */
  data?: DraftData | undefined;
  /** The `seq` of the message that this one answers. */
  replyTo?: Seq | undefined;
}

/** A message in its current state, after its edits, its deletion and its reactions. */
export interface ChatMessage {
  readonly kind: "message";
  /** An id that does not change while the message is in the list, also when the message becomes `sent`. */
  readonly id: string;
  /** The message's number in the conversation; absent until the server has stored the message. */
  readonly seq?: Seq;
  readonly from: UserId;
  /** The server's time; until the message is stored, the device's. */
  readonly at: Timestamp;
  readonly key?: string;
  readonly text?: string;
  readonly data?: AnyData;
  readonly replyTo?: Seq;
  readonly edited?: Edited;
  readonly deleted?: boolean;
  /** The reactions: for each emoji (without U+FE0F) the users, in the order of their reactions. */
  readonly reactions: Readonly<Record<string, readonly UserId[]>>;
  readonly state: OutgoingState;
  /** Why the message failed. */
  readonly error?: ChatError;
}

/**
 * An event of a conversation that is no message, such as a join, for the timeline. `withheld`: there is a message of `from`, whom
 * the user has blocked.
 */
export interface Notice {
  readonly kind: "notice";
  readonly id: string;
  readonly seq: Seq;
  readonly from: UserId;
  readonly at: Timestamp;
  readonly type: "create" | "join" | "leave" | "invite" | "remove" | "role" | "rename" | "withheld";
  /** The user whom the event is about, if that is not `from`. */
  readonly user?: UserId;
  readonly role?: ChatRole;
  readonly title?: string;
}

/** Messages around a message, in their current state. They are not kept up to date. */
export interface MessageWindow {
  readonly messages: readonly ChatMessage[];
  readonly hasOlder: boolean;
  readonly hasNewer: boolean;
}

/** The time-out of a command, and a signal that ends it. */
export interface CommandOptions {
  /** Ends the waiting: the promise rejects with `aborted`. The server may still execute a command that was sent. */
  signal?: AbortSignal | undefined;
  /** Milliseconds after which the promise rejects, with `timeout`, or `offline` without a connection: 30,000 by default. */
  timeout?: number | undefined;
}

/** Which messages a listener wants. */
export interface Listening {
  /**
   * `all`, the default: every message, including all those that were sent while there was no connection. `none`: only
   * messages that are sent from now on, while the chat is connected.
   */
  replay?: "all" | "none";
}

/** The number of unread messages. */
export interface UnreadTotal {
  readonly messages: number;
  readonly conversations: number;
  /** Whether there are conversations that were not counted. */
  readonly more: boolean;
}

/** The position at which the server has stored a message. */
export interface Acknowledged {
  readonly conversation: ConversationId;
  readonly seq: Seq;
  readonly at: Timestamp;
}

/**
 * `pending`: the message will be sent as soon as possible; `sent`: it is in the log, on the server's stable storage;
 * `held`: it is on stable storage, and waits for a moderator; `failed`: it is not sent again, except by `retry()`.
 */
export type OutgoingState = "pending" | "sent" | "held" | "failed";

/** A message that is being sent. It can be used like its promise `acked`, with `await`, `then`, `catch` and `finally`. */
export interface Outgoing extends Pick<Promise<Acknowledged>, keyof Promise<Acknowledged>> {
  readonly key: string;
  readonly state: Readable<OutgoingState>;
  /** Why the message failed. */
  readonly error: ChatError | undefined;
  /** Resolves when the message is in the log; rejects with a `ChatError` if it failed. `retry()` makes a new promise. */
  readonly acked: Promise<Acknowledged>;
  /** Sends a failed message again, with the same key. */
  retry(): void;
  /** Takes back a message that is not sent yet. A message in flight may still be stored. */
  discard(): void;
}

/** The summary of a conversation, for a list of conversations. */
export interface ConversationInfo {
  readonly id: ConversationId;
  readonly title?: string;
  /** The other user of a direct conversation; in a note to self, the user. */
  readonly peer?: UserId;
  /** Whether any user may join. */
  readonly public: boolean;
  readonly role: ChatRole;
  /** The number of members. */
  readonly memberCount: number;
  /** The last event's number, and its time. */
  readonly head: Seq;
  readonly at: Timestamp;
  /** How far the user has read, and how far one of the user's devices has received everything. */
  readonly read: Seq;
  readonly received: Seq;
  /** The number of other users' messages after `read`. */
  readonly unread: number;
  /** The last message. */
  readonly last?: ChatMessage;
}

/** Whether a user is online. */
export interface Presence {
  readonly online: boolean;
  /** When the user was last online; absent while the user is online, or if the user was never online. */
  readonly lastSeen?: Timestamp;
}

/** Whether a user is online; `undefined` while that is not known. */
export interface UserPresence extends Readable<Presence | undefined> {
  /**
   * Whether the server sends the presence of this user. If an app subscribes to more users than `limits.watch`, it sends
   * only that of the users of the latest subscriptions.
   */
  readonly watched: Readable<boolean>;
}

export interface ConversationEvents {
  /** The list of messages was loaded again, because too many events were missed, or the server has another log. */
  resync: void;
  /** A new message since the conversation was opened: once each, in order, including the user's own from other devices. */
  message: ChatMessage;
  /** Any event of the log since the conversation was opened, once each, in order. */
  event: ChatEvent;
  /** An edit failed and was undone in the list; `draft` has the content that the edit would have set. */
  editFailed: { readonly seq: Seq; readonly draft: Draft; readonly error: ChatError };
}

/**
 * `loading`: the latest messages are not loaded yet. `missing`: the conversation does not exist or the user is not a member
 * (the server gives the same answer for both), or the user has left a private room. `joinable`: the user has left a public room.
 * `ended`: the application deleted the room.
 */
export type ConversationState = "loading" | "ready" | "joinable" | "missing" | "ended";

export interface Conversation {
  /** The name that the app used, such as `@bob`, until the user is known; then the conversation id, `@alice:bob`. */
  readonly id: string;
  /**
   * The stored messages, oldest first, and after them the user's unacknowledged ones. The list is a new object only if a
   * message has changed. Subscribing opens the conversation.
   */
  readonly messages: Readable<readonly ChatMessage[]>;
  /** The messages with notices about joins, leaves, renames and roles between them. */
  readonly timeline: Readable<readonly (ChatMessage | Notice)[]>;
  /** Whether the server has messages before those of the list. */
  readonly hasOlder: Readable<boolean>;
  /** The summary; `undefined` while it is not loaded, or if the user is not a member. */
  readonly info: Readable<ConversationInfo | undefined>;
  /** The members, sorted by id: loaded with the first subscription, with up-to-date roles and cursors. */
  readonly members: Readable<readonly ConversationMember[]> & {
    /** Whether the list has all members. */
    readonly complete: boolean;
    /** Loads more members of a long list. Returns whether that added any. */
    loadMore(): Promise<boolean>;
  };
  /** The other users who are typing. */
  readonly typing: Readable<readonly UserId[]> & {
    /** Call this with every keystroke; a signal is sent every few seconds. Call it with `false` when the text is empty. */
    set(typing: boolean): void;
  };
  readonly state: Readable<ConversationState>;
  /** Loads a page of earlier messages. Returns whether that added any. */
  loadOlder(options?: CommandOptions): Promise<boolean>;
  /** Loads the messages around a message that need not be in the list. */
  around(seq: Seq, options?: CommandOptions): Promise<MessageWindow>;
  send(message: string | Draft): Outgoing;
  /** The user's unacknowledged message with this key, for `retry` and `discard`. */
  outgoing(key: string): Outgoing | undefined;
  /** The list shows the edit at once, and undoes it if it fails; so do `deleteMessage` and `react`. */
  edit(seq: Seq, message: string | Draft, options?: CommandOptions): Promise<void>;
  deleteMessage(seq: Seq, options?: CommandOptions): Promise<void>;
  react(seq: Seq, emoji: string, on?: boolean, options?: CommandOptions): Promise<void>;
  /** Marks the messages up to here as read; without `upto`, all loaded messages. */
  markRead(upto?: Seq): void;
  join(options?: CommandOptions): Promise<void>;
  leave(options?: CommandOptions): Promise<void>;
  invite(user: UserId, role?: ChatRole, options?: CommandOptions): Promise<void>;
  removeMember(user: UserId, options?: CommandOptions): Promise<void>;
  setRole(user: UserId, role: ChatRole, options?: CommandOptions): Promise<void>;
  rename(title: string, options?: CommandOptions): Promise<void>;
  /** Forgets the list and the members until the next subscription. This also happens automatically: see `releaseAfter`. */
  release(): void;
  /** Adds a listener; returns the function that removes it. Listeners of `message` and `event` open the conversation. */
  on<K extends keyof ConversationEvents>(
    event: K,
    listener: (value: ConversationEvents[K]) => unknown,
    options?: Listening,
  ): () => void;
}

export interface ChatEvents {
  /**
   * A new message in any conversation: once each, in order. With `replay: "all"` (see `Listening`) the SDK loads missed
   * messages of all conversations.
   */
  message: { message: ChatMessage; conversation: Conversation };
  /** A background failure that rejects no promise. */
  error: ChatError;
  /** A frame of the server whose type the SDK does not know. */
  frame: { readonly type: string; readonly [field: string]: unknown };
}

export interface NewRoom {
  /** The room's id; by default a random one. */
  room?: string;
  title?: string;
  public?: boolean;
  members?: UserId[];
}

export interface Chat {
  readonly status: Readable<ChatStatus>;
  /** The user's id; `undefined` until the first `welcome`. */
  readonly user: Readable<UserId | undefined>;
  /** The server's limits; `undefined` until the first `welcome`. */
  readonly limits: ChatLimits | undefined;
  /** The server's features beyond the first version of the protocol. */
  readonly features: readonly string[];
  /** What the user may do; `undefined` until the first `welcome`, and with a server that does not say. */
  readonly permissions: Readable<ChatPermissions | undefined>;
  /** Unread messages of all conversations, also of those that are not loaded. */
  readonly unread: Readable<UnreadTotal>;
  /** The user's conversations, latest activity first. */
  readonly conversations: Readable<readonly ConversationInfo[]> & {
    /** Whether the server has conversations that are not loaded. */
    readonly hasMore: Readable<boolean>;
    /** Loads the next page. Returns whether that added any. */
    loadMore(options?: CommandOptions): Promise<boolean>;
  };
  /** The user's unacknowledged messages. */
  readonly outbox: ChatOutbox;
  /** The conversation `"#general"`, `"@bob"` or with an id; always the same object. Throws `invalid` for an invalid name. */
  conversation(id: string): Conversation;
  create(room?: NewRoom, options?: CommandOptions): Promise<Conversation>;
  /** The presence of a user. The server sends it only for users who share a conversation with this user. */
  presence(user: UserId): UserPresence;
  /** Connects, if the chat has not connected yet: see the option `start`. */
  start(): void;
  /** Tries to connect now, also after the attempts have ended. If a token is being requested, requests it again. */
  reconnect(): void;
  /** Closes the chat for good. The storage keeps the outbox; later messages fail with `closed`. */
  close(): void;
  /** Resolves when there is a connection; rejects if it is lost for good, or after `signal` or `timeout`. */
  ready(options?: CommandOptions): Promise<Chat>;
  /** Sends any command of the protocol, if the SDK has no method for it. It may be sent again after a lost connection. */
  command<T = Record<string, unknown>>(type: string, fields?: object, options?: CommandOptions): Promise<T>;
  on<K extends keyof ChatEvents>(
    event: K,
    listener: (value: ChatEvents[K]) => unknown,
    options?: Listening,
  ): () => void;
}
