// The actions of a user in a conversation, apart from sending messages. It is harmless if one of their commands is sent twice.
// The list shows a change of a message at once, and undoes it if the command fails.

import { compact } from "./compact.js";
import { ChatError } from "./error.js";
import { handled } from "./handled.js";
import type { Host } from "./host.js";
import type { MessageList } from "./list.js";
import type { Command, Event, HistoryBody, Role, Seq, StoredBody, UserId } from "./protocol.js";
import { type Amendment, fromWire } from "./timeline.js";
import type { CommandOptions, ConversationEvents, Draft, MessageWindow } from "./types.js";

/** How many messages `around` loads at most: the requested message, and those before and after it. */
const WINDOW = 50;

export type AboutRoom = Extract<Command, { conversation: string }>;
type Fields<T> = Omit<Extract<AboutRoom, { type: T }>, "type" | "conversation">;
type Options = CommandOptions | undefined;

/** The server's answer to a write; `event` is set if the stored event differs from the command. */
export type Answer = StoredBody & { event?: Event };

/** Makes a draft of a text. A value that is neither a text nor a draft is passed on, and the server refuses it. */
export const draftOf = (message: string | Draft): Draft =>
  message && typeof message === "object" ? message : { text: message };

export abstract class RoomActions {
  abstract readonly id: string;
  abstract readonly cursor: Seq | undefined;
  protected abstract readonly host: Host;
  protected abstract readonly list: MessageList;

  /** Applies the event of the user's own command, which the server does not push to this connection. */
  protected abstract onOwnEvent(event: Event): void;
  protected abstract onEditFailed(failed: ConversationEvents["editFailed"]): void;

  edit(target: Seq, message: string | Draft, options?: Options): Promise<void> {
    const draft = draftOf(message);
    const { text, data } = draft as { text?: string; data?: Record<string, unknown> };
    return handled(this.#amend("edit", compact({ target, text, data }), options, draft));
  }

  deleteMessage(target: Seq, options?: Options): Promise<void> {
    return handled(this.#amend("delete", { target }, options));
  }

  react(target: Seq, emoji: string, on = true, options?: Options): Promise<void> {
    return handled(this.#amend("react", { target, emoji, on }, options));
  }

  join(options?: Options): Promise<void> {
    return this.#do("join", {}, options);
  }

  leave(options?: Options): Promise<void> {
    return this.#do("leave", {}, options);
  }

  invite(user: UserId, role: Role = "member", options?: Options): Promise<void> {
    return this.#do("invite", { user, role }, options);
  }

  removeMember(user: UserId, options?: Options): Promise<void> {
    return this.#do("remove", { user }, options);
  }

  setRole(user: UserId, role: Role, options?: Options): Promise<void> {
    return this.#do("role", { user, role }, options);
  }

  rename(title: string, options?: Options): Promise<void> {
    return this.#do("rename", { title }, options);
  }

  around(seq: Seq, options?: Options): Promise<MessageWindow> {
    return handled(this.#around(seq, options));
  }

  /** Builds a command about this conversation. */
  protected about<T extends AboutRoom["type"]>(type: T, fields: Fields<T>): Command {
    return { type, conversation: this.id, ...fields } as unknown as Command;
  }

  async #around(seq: Seq, options: Options): Promise<MessageWindow> {
    const page = await this.host.call<HistoryBody>(this.about("history", { around: seq, limit: WINDOW }), options);
    const messages = page.messages.map(fromWire);
    const hasNewer = page.more_after ?? false;
    return { messages, hasOlder: page.more, hasNewer };
  }

  #do<T extends AboutRoom["type"]>(type: T, fields: Fields<T>, options: Options): Promise<void> {
    return handled(this.#command(this.about(type, fields), options).then(() => {}));
  }

  async #command(command: Command, options: Options): Promise<Answer> {
    const answer = await this.host.call<Answer>(command, options);
    const { conversation, seq, at, event } = answer;
    const own = event ?? ({ ...command, conversation, seq, at, from: this.host.me } as Event);
    // The server pushes no event for a write of this connection; the answer replaces it. If the answer says `duplicate`, the
    // event has already arrived, or arrives with the log.
    if (!answer.duplicate) this.onOwnEvent(own);
    return answer;
  }

  /** Sends a change of a message and shows it at once; undoes it if the command fails. */
  async #amend<T extends Amendment["type"]>(
    type: T,
    fields: Fields<T>,
    options: Options,
    draft?: Draft,
  ): Promise<void> {
    const { optimistic } = this.list;
    const command = this.about(type, fields);
    const at = new Date(this.host.clock.wall()).toISOString();
    const pending = optimistic.add({ ...command, seq: 0, from: this.host.me ?? "", at } as unknown as Amendment);
    this.list.changed();
    try {
      pending.seq = (await this.#command(command, options)).seq;
      if (this.cursor !== undefined) optimistic.onCursor(this.cursor);
    } catch (error) {
      optimistic.remove(pending);
      if (draft && error instanceof ChatError) this.onEditFailed({ seq: pending.event.target, draft, error });
      throw error;
    } finally {
      this.list.changed();
    }
  }
}
