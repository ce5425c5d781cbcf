import type { Clock } from "./clock.js";
import type { Outgoing } from "./types.js";
import type { Command, Event, Seq, UserId } from "./protocol.js";
import type { Receipts } from "./receipts.js";
import type { Room } from "./room.js";
import type { Scheduler } from "./scheduler.js";
import type { RoomSummary } from "./summary.js";
import type { StoredMessage } from "./timeline.js";
import type { CommandOptions, Draft } from "./types.js";

/** The interface through which a conversation uses its chat. */
export interface RoomOwner {
  readonly me: UserId | undefined;
  readonly online: boolean;
  readonly closed: boolean;
  readonly clock: Clock;
  /** Sends background requests, for which no code of the app waits. */
  readonly scheduler: Scheduler;
  readonly receipts: Receipts;
  readonly outbox: {
    submit(to: string, draft: Draft): Outgoing;
    onOwnMessage(event: { conversation: string; seq: Seq; at: string }, key: string): void;
  };
  /** Milliseconds after which a conversation without subscribers is released. */
  readonly releaseAfter: number;
  /** Whether a listener wants every message of all conversations, including those in a gap. */
  readonly wantsEveryMessage: boolean;
  /** Connects, unless that has happened or the app has set `start: false`. */
  connect(): void;
  /** Sends a command on the current connection; fails when that connection is lost. */
  request<T>(command: Command): Promise<T>;
  /** Sends a command that may be repeated, as soon as there is a connection, and again after a lost connection. */
  call<T>(command: Command, options?: CommandOptions): Promise<T>;
  /** The last handled event of a conversation whose cursor is not known yet; `pending` while the saved cursors are loaded. */
  initialCursor(conversation: string, summary: RoomSummary | undefined): Seq | "pending" | undefined;
  /** Asks the inbox for the summary of a conversation that has none, or an outdated one. */
  lookUp(): void;
  /** Handles that a conversation has changed, because it is also shown in the list of conversations. */
  onRoomChange(): void;
  /** Handles that an event was applied. `live`: the event is new, not one that this client missed and the server replayed. */
  onEventApplied(event: Event, message: StoredMessage | undefined, room: Room, live: boolean): void;
  /** Reports an error that rejects no promise of the app. */
  report(error: unknown): void;
}
