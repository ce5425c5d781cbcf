import type { Clock } from "./clock.js";
import type { Outgoing } from "./types.js";
import type { Command, Event, Seq, UserId } from "./protocol.js";
import type { Receipts } from "./receipts.js";
import type { Room } from "./room.js";
import type { Scheduler } from "./scheduler.js";
import type { Known } from "./summary.js";
import type { StoredMessage } from "./timeline.js";
import type { CommandOptions, Draft } from "./types.js";

/** What a conversation asks of the chat that it belongs to. */
export interface Host {
  readonly me: UserId | undefined;
  readonly online: boolean;
  readonly closed: boolean;
  readonly clock: Clock;
  /** Requests that nobody waits for. */
  readonly scheduler: Scheduler;
  readonly receipts: Receipts;
  readonly outbox: {
    submit(to: string, draft: Draft): Outgoing;
    confirm(event: { conversation: string; seq: Seq; at: string }, key: string): void;
  };
  /** Milliseconds after which a conversation without subscribers is released. */
  readonly releaseAfter: number;
  /** Whether a listener wants every message of all conversations, over gaps as well. */
  readonly replaysAll: boolean;
  /** Connects, unless that has happened or the app wants to say when. */
  use(): void;
  /** Sends a command on this connection; fails with it. */
  request<T>(command: Command): Promise<T>;
  /** Sends a command that may be repeated, on the first connection there is in time. */
  call<T>(command: Command, options?: CommandOptions): Promise<T>;
  /** The last event that was heard of a conversation whose log has no place yet; `pending`: that is being found out. */
  baseline(conversation: string, summary: Known | undefined): Seq | "pending" | undefined;
  /** A conversation is there whose summary is not known, or out of date. */
  lookUp(): void;
  /** A conversation has changed in the list of them. */
  onRoomChange(): void;
  /** An event was applied. `live`: it is not one that was missed. */
  onEvent(event: Event, message: StoredMessage | undefined, room: Room, live: boolean): void;
  /** Reports what no promise tells of. */
  report(error: unknown): void;
}
