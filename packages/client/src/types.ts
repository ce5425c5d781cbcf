// The types that an app uses. The types of the protocol's frames are in `protocol.ts`, which is generated.

import type { Clock } from "./clock.js";
import type { ChatError } from "./error.js";
import type { ConversationId, Edited, Event, Limits, Member, Role, Seq, Timestamp, UserId } from "./protocol.js";

/** A conversation's role: what a member may do. */
export type ChatRole = Role;

/** A member of a conversation: role, and how far they have read and received. */
export type ConversationMember = Member;

/**
 * What an application puts into a message's `data`. An app gives it a type of its own:
 *
 *     declare module "@switchboard/client" { interface MessageData { order?: Order } }
 */
// eslint-disable-next-line @typescript-eslint/no-empty-object-type -- it is there for apps to add to.
export interface MessageData {}

/** `MessageData` where an app has said what that is, and otherwise any object. */
export type AnyData = keyof MessageData extends never ? Record<string, unknown> : MessageData;

/** The same for what is sent: an object of any type, `interface`s included. */
export type DraftData = keyof MessageData extends never ? object : MessageData;

/** What the server says, with the app's type of `data` wherever there is one in it. */
export type WithData<T> = T extends object ? { [K in keyof T]: K extends "data" ? AnyData : WithData<T[K]> } : T;

type CamelCase<S extends string> = S extends `${infer Head}_${infer Tail}`
  ? `${Head}${Capitalize<CamelCase<Tail>>}`
  : S;

/** What the server allows; see `welcome.limits` in docs/protocol.md. Sizes in bytes, times in milliseconds. */
export type ChatLimits = { readonly [K in keyof Limits as CamelCase<K>]: Limits[K] };

/** An event of a conversation's log. */
export type ChatEvent =
  WithData<Event> extends infer E
    ? E extends { type: "message" }
      ? Omit<E, "reply_to"> & { replyTo?: Seq }
      : E
    : never;

/** A value that changes. `getSnapshot` gives the same object until it has changed. */
export interface Readable<T> {
  getSnapshot(): T;
  /** What it was before anything was known: what a page shows that a server has rendered, until it is hydrated. */
  getInitialSnapshot?(): T;
  /** Calls back with the value now, and then whenever it has changed; once for all changes of a moment. */
  subscribe(listener: (value: T) => void): () => void;
}

/** How the connection stands. */
export interface ChatStatus {
  /** `idle` before the first attempt and after `close()`; `offline` between attempts, or for good. */
  readonly state: "idle" | "connecting" | "online" | "offline";
  /** The WebSocket's close code, when a connection was lost. */
  readonly code?: number;
  /** Why it is offline, for a person: the server's sentence where it said one. */
  readonly reason?: string;
  /** Milliseconds from when the status changed to the next attempt. Absent while offline: there will be none by itself. */
  readonly retryIn?: number;
  /** What the server, or the token callback, said last. */
  readonly error?: ChatError;
}

/** Where entries of the outbox are kept so that they outlive a page. Calls for different keys may overlap. */
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
  /** When it was said, by the clock of the device, in milliseconds since the Unix epoch. */
  time: number;
  /** Absent while it is pending. */
  state?: "held" | "failed";
  /** Why it failed. */
  error?: { code: ChatError["code"]; message: string; retryable: boolean; field?: string };
  /** How often it was given to the server. */
  attempts?: number;
}

/** One's own messages that are not acknowledged, of all conversations. */
export interface ChatOutbox {
  readonly entries: Readable<readonly OutboxEntry[]>;
  /** Takes all of them back, also those that are kept for this user by other tabs: after signing out nothing is left. */
  clear(): Promise<void>;
}

/** Where a bot keeps how far it has heard each conversation, so that it goes on from there after a restart. */
export interface CursorStorage {
  /** All that was saved under `scope` (a server and a user); names and numbers mean nothing to the app. */
  load(scope: string): Promise<Record<string, number>>;
  /** Saves these; what was saved under other names stays. */
  save(scope: string, cursors: Record<string, number>): Promise<void>;
}

/** What tells that the network is back, or the person. By default the browser's events do. */
export interface NetworkSource {
  /** Whether a person may be looking at the app now. */
  visible(): boolean;
  /**
   * Calls back when the network is back (`online`) and when the app comes to the front (`visible`), until the function
   * that it gives is called.
   */
  subscribe(listener: (event: "online" | "visible") => void): () => void;
}

export interface ChatOptions {
  /**
   * A JWT, or a function that gets one. It is asked when there is none yet, when the last one ends within 30 s or the
   * server does not take it any more; `signal` is aborted when its answer is not waited for any more, at the latest
   * after 30 s. If it throws, it is asked again later, unless it throws an `UnauthorizedError`, which ends the attempts.
   */
  token?: string | ((context: { signal: AbortSignal }) => string | Promise<string>);
  /**
   * On a `dev` server, in place of a token: the user, on trust. With a token: whose it is, where its `sub` does not say
   * so; what is sent before the first connection is kept under that name.
   */
  user?: UserId;
  /** This client's own stable name for itself. */
  device?: string;
  /** Where unacknowledged messages are kept: IndexedDB by default where there is one; `null` for memory only. */
  outbox?: OutboxStorage | null;
  /** Milliseconds that a message may wait there, 24 hours by default; then it fails with `expired`, and can be sent again. */
  maxAge?: number;
  /**
   * Where it is kept how far `on("message")` has heard each conversation: with it, a bot hears after a restart what it has
   * missed, at least once. None by default.
   */
  cursors?: CursorStorage;
  /**
   * Milliseconds after which a conversation is released that nobody subscribes to any more: 5 minutes by default, `Infinity`
   * for never.
   */
  releaseAfter?: number;
  /**
   * Whether it connects at once. By default: in a page or a worker of one, yes; elsewhere with the first `subscribe`,
   * `on`, `send`, command, `ready()` or `start()`, so that a server that renders pages connects nowhere. With `false`, only
   * `start()` or `reconnect()` does.
   */
  start?: boolean;
  /** The WebSocket to use where the platform has none, or another. */
  WebSocket?: new (url: string, protocols?: string | string[]) => WebSocket;
  /** What tells that the network, or the person, is back. */
  network?: NetworkSource;
  /** What happens on the connection, line by line: `true` writes it to the console. No line has a token or a text in it. */
  debug?: boolean | ((line: string, ...details: unknown[]) => void);
  /** For tests: another clock. */
  clock?: Clock;
}

/** What a message says. */
export interface Draft {
  text?: string | undefined;
  /** Anything of the application's own. */
  data?: DraftData | undefined;
  /** The `seq` of the message that this one answers. */
  replyTo?: Seq | undefined;
}

/** A message as it stands now: edits, deletion and reactions are folded in. */
export interface ChatMessage {
  readonly kind: "message";
  /** The same for as long as the message is in the list, also while it goes from pending to sent. */
  readonly id: string;
  /** Its number in the conversation; absent until the server has stored it. */
  readonly seq?: Seq;
  readonly from: UserId;
  /** The server's time; until it is stored, the device's. */
  readonly at: Timestamp;
  readonly key?: string;
  readonly text?: string;
  readonly data?: AnyData;
  readonly replyTo?: Seq;
  readonly edited?: Edited;
  readonly deleted?: boolean;
  /** Who reacted how: users in the order of their reactions, by emoji (without U+FE0F). */
  readonly reactions: Readonly<Record<string, readonly UserId[]>>;
  readonly state: OutgoingState;
  /** Why it failed. */
  readonly error?: ChatError;
}

/** A change of a conversation that is no message, for a list of both. */
export interface Notice {
  readonly kind: "notice";
  readonly id: string;
  readonly seq: Seq;
  readonly from: UserId;
  readonly at: Timestamp;
  readonly type: "create" | "join" | "leave" | "invite" | "remove" | "role" | "rename";
  /** Whom it is about, where that is not `from`. */
  readonly user?: UserId;
  readonly role?: ChatRole;
  readonly title?: string;
}

/** Messages around one, as they stand now. They are not kept up to date. */
export interface MessageWindow {
  readonly messages: readonly ChatMessage[];
  readonly hasOlder: boolean;
  readonly hasNewer: boolean;
}

/** How long a command may take. */
export interface CommandOptions {
  /** Ends the waiting: the promise rejects with `aborted`. What was sent already may be done all the same. */
  signal?: AbortSignal | undefined;
  /** Milliseconds after which the promise rejects, with `timeout`, or `offline` without a connection: 30,000 by default. */
  timeout?: number | undefined;
}

/** Which messages a listener wants. */
export interface Listening {
  /**
   * `all`, the default: each one, also those that were written while there was no connection, however many. `none`: those
   * that are written from now on, while one is connected.
   */
  replay?: "all" | "none";
}

/** How many messages wait to be read. */
export interface UnreadTotal {
  readonly messages: number;
  readonly conversations: number;
  /** There are conversations that were not counted. */
  readonly more: boolean;
}

/** Where the server has stored a message. */
export interface Acknowledged {
  readonly conversation: ConversationId;
  readonly seq: Seq;
  readonly at: Timestamp;
}

/**
 * `pending`: it is sent as soon as it can be; `sent`: it is on the server's stable storage, in its place in the log;
 * `held`: it is on stable storage, and waits for a moderator; `failed`: it is not sent, unless `retry()` says so.
 */
export type OutgoingState = "pending" | "sent" | "held" | "failed";

/** A message on its way. It can be used as the promise `acked`: `await`, `then`, `catch` and `finally` wait for that. */
export interface Outgoing extends Pick<Promise<Acknowledged>, keyof Promise<Acknowledged>> {
  readonly key: string;
  readonly state: Readable<OutgoingState>;
  /** Why it failed. */
  readonly error: ChatError | undefined;
  /** Resolves when it has its place in the log; rejects with a `ChatError` when it failed. After `retry()` it is another. */
  readonly acked: Promise<Acknowledged>;
  /** Sends a failed message again, with the same key. */
  retry(): void;
  /** Takes back a message that is not sent. One that is on its way may arrive all the same. */
  discard(): void;
}

/** How a conversation stands, for a list of them. */
export interface ConversationInfo {
  readonly id: ConversationId;
  readonly title?: string;
  /** In a direct conversation, the other one; in a note to self, oneself. */
  readonly peer?: UserId;
  /** Anyone may join. */
  readonly public: boolean;
  readonly role: ChatRole;
  /** How many members there are. */
  readonly memberCount: number;
  /** The last event's number, and its time. */
  readonly head: Seq;
  readonly at: Timestamp;
  /** How far one has read, and how far any device has everything. */
  readonly read: Seq;
  readonly received: Seq;
  /** Messages of others after that. */
  readonly unread: number;
  /** The last message. */
  readonly last?: ChatMessage;
}

/** Whether a user is online. */
export interface Presence {
  readonly online: boolean;
  /** When they were last there; absent while online, or if never seen. */
  readonly lastSeen?: Timestamp;
}

/** Whether a user is there; `undefined` while that is not known. */
export interface UserPresence extends Readable<Presence | undefined> {
  /**
   * Whether the server was asked to tell. It is not for all users that an app subscribes to, where those are more than
   * `limits.watch`: then it is for those that were subscribed to last.
   */
  readonly watched: Readable<boolean>;
}

export interface ConversationEvents {
  /** The list of messages was rebuilt from the server: too much had been missed to fill in, or the log is another. */
  resync: void;
  /** A message that is new since the conversation was opened: once each, in order, one's own from other devices too. */
  message: ChatMessage;
  /** Any event of the log since the conversation was opened, once each, in order. */
  event: ChatEvent;
  /** An edit was refused, or there was no connection in time. The message stands as before; here is what it was to be. */
  editFailed: { readonly seq: Seq; readonly draft: Draft; readonly error: ChatError };
}

/**
 * `loading`: the latest messages are not there yet. `missing`: there is no such conversation, or the user is not in it, which
 * the server does not tell apart; also after leaving a private one. `joinable`: the user has left a public one, and may join again.
 */
export type ConversationState = "loading" | "ready" | "joinable" | "missing";

export interface Conversation {
  /** The name that was asked for, `@bob`, until the user is known; then the conversation id, `@alice:bob`. */
  readonly id: string;
  /**
   * Oldest first: what the server has, and after it one's own unacknowledged messages. A new list only when a message has
   * changed. Subscribing opens the conversation.
   */
  readonly messages: Readable<readonly ChatMessage[]>;
  /** The same with joins, leaves, renames and roles between them. */
  readonly timeline: Readable<readonly (ChatMessage | Notice)[]>;
  /** Whether the server has messages before those of the list. */
  readonly hasOlder: Readable<boolean>;
  /** `undefined` while one is not in it, or it is not known yet. */
  readonly info: Readable<ConversationInfo | undefined>;
  /** By id; loaded when first subscribed to, kept up to date with roles and cursors. */
  readonly members: Readable<readonly ConversationMember[]> & {
    /** Whether all of them are in the list. */
    readonly complete: boolean;
    /** Loads more of a long list. Whether it added any. */
    loadMore(): Promise<boolean>;
  };
  /** Who is typing, oneself excepted. */
  readonly typing: Readable<readonly UserId[]> & {
    /** Call it with every keystroke: the server gets a signal every few seconds. `false` when the text is gone. */
    set(typing: boolean): void;
  };
  readonly state: Readable<ConversationState>;
  /** Loads a page of earlier messages. Whether it added any. */
  loadOlder(options?: CommandOptions): Promise<boolean>;
  /** The messages around one that need not be in the list. */
  around(seq: Seq, options?: CommandOptions): Promise<MessageWindow>;
  send(message: string | Draft): Outgoing;
  /** One's own messages that are not acknowledged: `retry` and `discard` by `key`. */
  outgoing(key: string): Outgoing | undefined;
  /** Shows at once, as `deleteMessage` and `react` do, and as it was before if it fails. */
  edit(seq: Seq, message: string | Draft, options?: CommandOptions): Promise<void>;
  deleteMessage(seq: Seq, options?: CommandOptions): Promise<void>;
  react(seq: Seq, emoji: string, on?: boolean, options?: CommandOptions): Promise<void>;
  /** Tells that a person has read up to here; without `upto`, everything that is loaded. */
  markRead(upto?: Seq): void;
  join(options?: CommandOptions): Promise<void>;
  leave(options?: CommandOptions): Promise<void>;
  invite(user: UserId, role?: ChatRole, options?: CommandOptions): Promise<void>;
  removeMember(user: UserId, options?: CommandOptions): Promise<void>;
  setRole(user: UserId, role: ChatRole, options?: CommandOptions): Promise<void>;
  rename(title: string, options?: CommandOptions): Promise<void>;
  /** Forgets the list and the members, until the next subscriber. Happens by itself: see `releaseAfter`. */
  release(): void;
  /** Returns the function that ends it. Listeners of `message` and `event` open the conversation. */
  on<K extends keyof ConversationEvents>(
    event: K,
    listener: (value: ConversationEvents[K]) => unknown,
    options?: Listening,
  ): () => void;
}

export interface ChatEvents {
  /**
   * A message that is new, in any conversation: once each, in order. With `replay: "all"` (see `Listening`) all
   * conversations are kept in step for it.
   */
  message: { message: ChatMessage; conversation: Conversation };
  /** Something in the background failed that no promise tells of. */
  error: ChatError;
  /** A frame of the server's that is not known here. */
  frame: { readonly type: string; readonly [field: string]: unknown };
}

export interface NewRoom {
  /** The room's id; without it one is made. */
  room?: string;
  title?: string;
  public?: boolean;
  members?: UserId[];
}

export interface Chat {
  readonly status: Readable<ChatStatus>;
  /** Who one is; `undefined` until the first welcome. */
  readonly user: Readable<UserId | undefined>;
  /** What the server allows; `undefined` until the first welcome. */
  readonly limits: ChatLimits | undefined;
  /** What the server can do beyond the first version of the protocol. */
  readonly features: readonly string[];
  /** Unread messages of all conversations, also of those that are not loaded. */
  readonly unread: Readable<UnreadTotal>;
  /** The inbox, latest activity first. */
  readonly conversations: Readable<readonly ConversationInfo[]> & {
    /** Whether the server has conversations that are not loaded. */
    readonly hasMore: Readable<boolean>;
    /** Loads a page more. Whether it added any. */
    loadMore(options?: CommandOptions): Promise<boolean>;
  };
  /** One's own messages that are not acknowledged. */
  readonly outbox: ChatOutbox;
  /** `"#general"`, `"@bob"` or a conversation id; the same object for the same conversation. Throws `invalid` for what is no name. */
  conversation(id: string): Conversation;
  create(room?: NewRoom, options?: CommandOptions): Promise<Conversation>;
  /** Whether a user is there. The server answers for users who share a conversation with this one. */
  presence(user: UserId): UserPresence;
  /** Connects, where nothing has yet: see the option `start`. */
  start(): void;
  /** Tries to connect now, also after it was given up. A token that does not come is asked for again. */
  reconnect(): void;
  /** Ends it, for good. What is in the outbox stays there; what is sent afterwards fails with `closed`. */
  close(): void;
  /** Resolves when there is a connection; rejects when there will be none, or with `signal` and `timeout`. */
  ready(options?: CommandOptions): Promise<Chat>;
  /** Sends any command of the protocol, for what the SDK has no function for. It may be sent again after a loss. */
  command<T = Record<string, unknown>>(type: string, fields?: object, options?: CommandOptions): Promise<T>;
  on<K extends keyof ChatEvents>(
    event: K,
    listener: (value: ChatEvents[K]) => unknown,
    options?: Listening,
  ): () => void;
}
