// The commands of a conversation, apart from sending messages: the actions of its user, and requests for pages. It is harmless
// if one of them is sent twice. The list shows a change of a message at once, and undoes it if the command fails.

import { compact } from "./compact.js";
import { ChatError } from "./error.js";
import { ignoreUnhandledRejection } from "./rejection.js";
import type { PageOptions } from "./history.js";
import type { RoomOwner } from "./room-owner.js";
import type { MessageList } from "./list.js";
import type { Command, Event, HistoryBody, LogBody, MembersBody } from "./protocol.js";
import type { Role, Seq, StoredBody, UserId } from "./protocol.js";
import type { Lane } from "./scheduler.js";
import { type Amendment, messageFromWire } from "./timeline.js";
import type { CommandOptions, ConversationEvents, Draft, MessageWindow } from "./types.js";

/** How many messages `around` loads at most: the requested message, and those before and after it. */
const MAX_WINDOW_MESSAGES = 50;

export type RoomCommand = Extract<Command, { conversation: string }>;
type CommandFields<T> = Omit<Extract<RoomCommand, { type: T }>, "type" | "conversation">;
type CallOptions = CommandOptions | undefined;

/** The server's answer to a write; `event` is set if the stored event differs from the command. */
export type WriteAnswer = StoredBody & { event?: Event };

/** Makes a draft of a text. A value that is neither a text nor a draft is passed on, and the server refuses it. */
export const draftOf = (message: string | Draft): Draft =>
  message && typeof message === "object" ? message : { text: message };

export abstract class RoomActions {
  abstract readonly id: string;
  abstract readonly cursor: Seq | undefined;
  abstract readonly isWatched: boolean;
  protected abstract readonly owner: RoomOwner;
  protected abstract readonly list: MessageList;

  /** Applies the event of the user's own command, which the server does not push to this connection. */
  protected abstract onOwnEvent(event: Event): void;
  protected abstract onEditFailed(failed: ConversationEvents["editFailed"]): void;

  get me(): UserId | undefined {
    return this.owner.me;
  }

  edit(target: Seq, message: string | Draft, options?: CallOptions): Promise<void> {
    const draft = draftOf(message);
    const { text, data } = draft as { text?: string; data?: Record<string, unknown> };
    return ignoreUnhandledRejection(this.#amendMessage("edit", compact({ target, text, data }), options, draft));
  }

  deleteMessage(target: Seq, options?: CallOptions): Promise<void> {
    return ignoreUnhandledRejection(this.#amendMessage("delete", { target }, options));
  }

  react(target: Seq, emoji: string, on = true, options?: CallOptions): Promise<void> {
    return ignoreUnhandledRejection(this.#amendMessage("react", { target, emoji, on }, options));
  }

  join(options?: CallOptions): Promise<void> {
    return this.#execute("join", {}, options);
  }

  leave(options?: CallOptions): Promise<void> {
    return this.#execute("leave", {}, options);
  }

  invite(user: UserId, role: Role = "member", options?: CallOptions): Promise<void> {
    return this.#execute("invite", { user, role }, options);
  }

  removeMember(user: UserId, options?: CallOptions): Promise<void> {
    return this.#execute("remove", { user }, options);
  }

  setRole(user: UserId, role: Role, options?: CallOptions): Promise<void> {
    return this.#execute("role", { user, role }, options);
  }

  rename(title: string, options?: CallOptions): Promise<void> {
    return this.#execute("rename", { title }, options);
  }

  around(seq: Seq, options?: CallOptions): Promise<MessageWindow> {
    return ignoreUnhandledRejection(this.#loadMessagesAround(seq, options));
  }

  /** Builds a command about this conversation. */
  protected roomCommand<T extends RoomCommand["type"]>(type: T, fields: CommandFields<T>): Command {
    return { type, conversation: this.id, ...fields } as unknown as Command;
  }

  // ---- Requests for pages, for the log, the list and the members.

  readHistory(fields: { before?: Seq; limit: number }, options?: PageOptions): Promise<HistoryBody> {
    if (!options) return this.scheduleRequest("history", fields);
    return this.owner.call(this.roomCommand("history", fields), options);
  }

  readLog(after: Seq, limit: number): Promise<LogBody> {
    return this.scheduleRequest("sync", { after, limit });
  }

  readMembers(fields: { after?: UserId; limit: number }): Promise<MembersBody> {
    return this.scheduleRequest("members", fields);
  }

  /** Sends a request in the background: sooner for a conversation that the app shows. */
  protected scheduleRequest<T>(
    type: RoomCommand["type"],
    fields: object | (() => object | undefined),
    lane?: Lane,
  ): Promise<T> {
    const urgency = () => (this.isWatched ? 0 : 1);
    const command = () => {
      const now = fields instanceof Function ? (fields() as object | undefined) : fields;
      return now && ({ type, conversation: this.id, ...now } as Command);
    };
    return this.owner.scheduler.request<T>(command, urgency, lane);
  }

  async #loadMessagesAround(seq: Seq, options: CallOptions): Promise<MessageWindow> {
    const page = await this.owner.call<HistoryBody>(
      this.roomCommand("history", { around: seq, limit: MAX_WINDOW_MESSAGES }),
      options,
    );
    const messages = page.messages.map(messageFromWire);
    const hasNewer = page.more_after ?? false;
    return { messages, hasOlder: page.more, hasNewer };
  }

  #execute<T extends RoomCommand["type"]>(type: T, fields: CommandFields<T>, options: CallOptions): Promise<void> {
    return ignoreUnhandledRejection(this.#sendAndApply(this.roomCommand(type, fields), options).then(() => {}));
  }

  async #sendAndApply(command: Command, options: CallOptions): Promise<WriteAnswer> {
    const answer = await this.owner.call<WriteAnswer>(command, options);
    const { conversation, seq, at, event } = answer;
    const ownEvent = event ?? ({ ...command, conversation, seq, at, from: this.owner.me } as Event);
    // The server pushes no event for a write of this connection; the answer replaces it. If the answer says `duplicate`, the
    // event has already arrived, or arrives with the log.
    if (!answer.duplicate) this.onOwnEvent(ownEvent);
    return answer;
  }

  /** Sends a change of a message and shows it at once; undoes it if the command fails. */
  async #amendMessage<T extends Amendment["type"]>(
    type: T,
    fields: CommandFields<T>,
    options: CallOptions,
    draft?: Draft,
  ): Promise<void> {
    const { optimistic: optimisticChanges } = this.list;
    const command = this.roomCommand(type, fields);
    const at = new Date(this.owner.clock.wall()).toISOString();
    const pending = optimisticChanges.add({
      ...command,
      seq: 0,
      from: this.owner.me ?? "",
      at,
    } as unknown as Amendment);
    this.list.invalidate();
    try {
      pending.seq = (await this.#sendAndApply(command, options)).seq;
      if (this.cursor !== undefined) optimisticChanges.onCursor(this.cursor);
    } catch (error) {
      optimisticChanges.remove(pending);
      if (draft && error instanceof ChatError) this.onEditFailed({ seq: pending.event.target, draft, error });
      throw error;
    } finally {
      this.list.invalidate();
    }
  }
}
