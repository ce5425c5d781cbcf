// The calls over HTTP that concern the application and not one of its users. They need an API key.

import type {
  ConversationId,
  Data,
  Event,
  Failure,
  Message,
  ReportAction,
  ReportReason,
  Seq,
  Timestamp,
  UserId,
} from "./protocol.js";
import type { DraftData, WithData } from "./types.js";

/** An entry of the feed. Types with a dot have further fields. */
export interface FeedEntry {
  /** A cursor: entries after it come next. It is the same whenever the entry is read. */
  id: string;
  /** The type of an event; with a dot what is no event, such as `user.offline`. */
  type: string;
  at: Timestamp;
  /** The API key that made it, or `cli`. */
  via?: string;
  /** True if an import made it. */
  imported?: boolean;
  /** The user whom an entry that is no event is about. */
  user?: UserId;
  /** The event as it is in the log now: without content if it was deleted since. */
  event?: WithData<Event>;
  [field: string]: unknown;
}

/** What changes in a user's profile: what is absent stays as it is, `null` removes. */
export interface ProfileChange {
  user: UserId;
  name?: string | null;
  avatar?: string | null;
  data?: DraftData | null;
  /** False for a user who is gone: they cannot sign in, are not found, and keep their name and messages. */
  active?: boolean;
}

/** A user in `list_users`. */
export interface ListedUser {
  /** The user's number, which never changes and is never given again. */
  number: number;
  user: UserId;
  name?: string;
  avatar?: string;
  data?: unknown;
  version: number;
  /** False if the application said that the user is gone. */
  active: boolean;
  /** When the user's last device disconnected. */
  last_seen?: Timestamp;
}

/** A ban in `bans`. */
export interface ListedBan {
  /** The number of the banned user. */
  number: number;
  user: UserId;
  /** When the ban ends; absent if it has no end. */
  until?: Timestamp;
  /** When it was made. */
  at: Timestamp;
  /** Whether the user comes in all the same, and what they send is held. */
  shadow?: boolean;
  /** What the user reads. */
  reason?: string;
  /** What only moderators read. */
  note?: string;
}

/** A report in `reports`. */
export interface ListedReport {
  report: string;
  state: "open" | "claimed" | "done";
  /** The user who is reported: the author of the message. */
  user: UserId;
  /** The message; absent if the user is reported. */
  conversation?: ConversationId;
  target?: Seq;
  /** Whether it is a message that waits for a moderator, which no user has reported. */
  held?: boolean;
  /** What was reported, as it was when it was first reported. */
  snapshot?: { text?: string; data?: Data; reply_to?: Seq; at?: Timestamp; name?: string; avatar?: string };
  /** The most frequent first. */
  reasons: { reason: ReportReason; count: number }[];
  /** The first 50 of those who reported it. */
  reporters: { user: UserId; reason: ReportReason; text?: string; at: Timestamp }[];
  at: Timestamp;
  /** The moderator who has claimed or decided it. */
  moderator?: UserId;
  claimed?: Timestamp;
  decided?: Timestamp;
  action?: ReportAction;
  note?: string;
}

/** A room in `list_rooms`. */
export interface ListedRoom {
  /** The room's number, which is never given again. */
  number: number;
  conversation: ConversationId;
  title?: string;
  public: boolean;
  members: number;
  messages: number;
  head: Seq;
  at: Timestamp;
}

/** What a user has not read, over the 200 conversations with the latest activity. */
export interface UserUnread {
  user: UserId;
  messages: number;
  conversations: number;
  online: boolean;
  /** When the user's last device disconnected; absent while one is connected. */
  last_seen?: Timestamp;
  /** Whether the user has more conversations than were counted. */
  more: boolean;
}

/** What became of the message to one recipient of `send_many`: it has `seq` and `at`, or `held`, or `error`. */
export interface SendResult {
  user: UserId;
  conversation?: ConversationId;
  seq?: Seq;
  at?: Timestamp;
  /** Whether an earlier call had stored it. */
  duplicate?: boolean;
  held?: boolean;
  /** Why it was not stored. The others are. */
  error?: Failure;
}

/** A message of an import: its author and its key. */
export interface ImportedMessage {
  from: UserId;
  key: string;
}

/** A line of an import: a room, a message, a reaction, or how far a user has read. Lines are in the order of their times. */
export type ImportLine =
  | { create: ConversationId; at: Timestamp; from: UserId; title?: string; public?: boolean; members?: UserId[] }
  | {
      to: string;
      from: UserId;
      at: Timestamp;
      key: string;
      text?: string;
      data?: DraftData;
      reply_to?: ImportedMessage;
    }
  | { react: string; to: string; from: UserId; at: Timestamp; target: ImportedMessage }
  | { read: string; from: UserId; upto: ImportedMessage };

/** A new webhook. */
export interface NewWebhook {
  name: string;
  /** The URL that gets the entries, by POST. */
  url: string;
  /** The types of entries, as `message`; all but those of the audit log without it. */
  types?: string[];
  /** The conversations, as patterns such as `#support-*`; all without it. */
  only?: string[];
  /** Where it begins: `"now"`, `"0"`, or a cursor of the feed. */
  from?: string;
  /** Headers of each request. */
  headers?: Record<string, string>;
  /** Whether what was imported is sent, too. */
  imported?: boolean;
}

/** How a request to an endpoint ended. */
export interface WebhookAnswer {
  /** The entry's id. */
  id: string;
  at: Timestamp;
  /** How long it took, in milliseconds. */
  took: number;
  /** The status, if the endpoint answered; otherwise there is an `error`. */
  status?: number;
  error?: string;
}

/** A webhook, as operators see it. */
export interface Webhook {
  name: string;
  url: string;
  created: Timestamp;
  /** The API key that added it; null if the command line did. */
  parent: string | null;
  types: string[];
  only: string[];
  /** The names of its headers. Their values may be secret. */
  headers: string[];
  /** Whether what was imported is sent, too. */
  imported: boolean;
  /** Why nothing is sent. */
  paused: string | null;
  /** The cursor up to which everything was taken, held or parked; null until it has begun. */
  position: string | null;
  /** How many entries of the feed were after it when the position was stored. */
  lag: number;
  /** When the position moved last. */
  moved: Timestamp;
  /** The node that sends. */
  node: string | null;
  /** Since when the endpoint is at fault, and when it is tried again. */
  failing_since: Timestamp | null;
  next_try: Timestamp | null;
  /** The ids of entries that are tried again later, and of those behind them. */
  held: string[];
  /** The ids of entries that the endpoint does not take. */
  parked: string[];
  /** Until when the secret of before signs as well. */
  old_until: Timestamp | null;
  /** The latest answers, oldest first. */
  answers: WebhookAnswer[];
}

/** A webhook's secret, which is shown once. */
export interface WebhookSecret {
  name: string;
  /** `whsec_…`, as Standard Webhooks write it. */
  secret: string;
}

/** The event that a call has stored. `duplicate`: an earlier call had stored it. */
export interface StoredEvent {
  conversation: ConversationId;
  seq: Seq;
  at: Timestamp;
  duplicate?: true;
}

/** The calls that concern the application, with their fields and the fields of their answers. They have no `as`. */
export interface ApplicationCalls {
  feed: {
    fields: { after: string; limit?: number; wait?: number; types?: string[] };
    answer: { entries: FeedEntry[]; next: string; more: boolean };
  };
  /** Stores up to 1,000 lines of another system's history, all or none. */
  import: { fields: { lines: ImportLine[] }; answer: { stored: number; duplicates: number } };
  /** Changes up to 1,000 profiles, all or none. */
  profiles: { fields: { profiles: ProfileChange[] }; answer: unknown };
  /** With `replace` as of now even if an earlier call stored a later time, by a clock that was wrong. */
  revoke: { fields: { user: UserId; replace?: boolean }; answer: unknown };
  /**
   * Bans a user from the installation until `until`, or for good without it; `on` false ends the ban. The user reads `reason`,
   * moderators `note`. With `shadow`, and then without `reason`, the user comes in all the same, and what they send is held.
   */
  ban: {
    fields:
      | { user: UserId; until?: Timestamp; reason?: string; note?: string; shadow?: boolean }
      | { user: UserId; on: false };
    answer: unknown;
  };
  /** The bans that hold, by the users' numbers, as `list_users`. */
  bans: { fields: { after?: number; limit?: number }; answer: { bans: ListedBan[]; next: number; more: boolean } };
  /** What users have reported, by number, as `list_users`; without `state` and `user`, all. */
  reports: {
    fields: { state?: ListedReport["state"]; user?: UserId; after?: number; limit?: number };
    answer: { reports: ListedReport[]; next: number; more: boolean };
  };
  /** Claims or decides a report. The author reads `tell`, moderators `note`; `as` names the moderator. */
  resolve: {
    fields: {
      report: string;
      action: "claim" | ReportAction;
      until?: Timestamp;
      note?: string;
      tell?: string;
      as?: UserId;
    };
    answer: unknown;
  };
  /** The messages around one, for a moderator. The audit log notes it, with the reason. */
  "moderate/history": {
    fields: { conversation: ConversationId; around: Seq; reason: string; as?: UserId };
    answer: { conversation: ConversationId; messages: Message[]; head: Seq; more: boolean; more_after: boolean };
  };
  /** All users by number. `after` is `next` of the page before; a page may be empty although there is `more`. */
  list_users: {
    fields: { after?: number; limit?: number; match?: string; active?: boolean };
    answer: { users: ListedUser[]; next: number; more: boolean };
  };
  /** All rooms by number, as `list_users`; `match` is a pattern such as `#support-*`. */
  list_rooms: {
    fields: { after?: number; limit?: number; match?: string; member?: UserId; public?: boolean };
    answer: { rooms: ListedRoom[]; next: number; more: boolean };
  };
  /** What up to 1,000 users have not read, in the order asked. */
  unread: { fields: { users: UserId[] }; answer: { users: UserUnread[] } };
  /** Gives a user another id. The old one is never given again. */
  rename_user: { fields: { user: UserId; to: UserId }; answer: unknown };
  /** Deletes a room. Its last event is `end`, from the user in `as`, or without it from the id that is the API key's name. */
  delete_room: { fields: { conversation: ConversationId; as?: UserId }; answer: StoredEvent };
  add_webhook: { fields: NewWebhook; answer: WebhookSecret };
  list_webhooks: { fields: object; answer: { webhooks: Webhook[] } };
  pause_webhook: { fields: { name: string }; answer: unknown };
  resume_webhook: { fields: { name: string }; answer: unknown };
  remove_webhook: { fields: { name: string }; answer: unknown };
  test_webhook: { fields: { name: string }; answer: { answer: WebhookAnswer } };
  /** `overlap` is how many milliseconds the secret of before signs as well. */
  rotate_webhook: { fields: { name: string; overlap?: number }; answer: WebhookSecret };
  /** `from` is a cursor of the feed, `"0"`, or a time. */
  replay_webhook: { fields: { name: string; from: string } | { name: string; parked: true }; answer: unknown };
}

/** Whether a call concerns the application. A pattern is shorter than the names; a test compares it with the server's calls. */
export const isOfTheApplication = (call: string): call is keyof ApplicationCalls =>
  /hook|imp|list_|e_|^feed|^ban|profiles|voke|unr|ports|solve|\//.test(call);
