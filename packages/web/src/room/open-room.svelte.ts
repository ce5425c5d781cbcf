// The conversation on the screen, with what its parts share.

import type { ChatMessage, Conversation, ConversationInfo, ConversationMember } from "@switchboard/client";
import { value } from "@switchboard/client/svelte";
import type { Desk } from "../app/desk.svelte.js";
import { nameOf, peerOf } from "../conversations/name.js";
import { folded } from "../emoji/reaction.js";

/** In larger rooms the server does not tell how far each has read, and their members are too many to load for a guess. */
const SMALL = 100;
const NOBODY: readonly ConversationMember[] = [];

/** What the log can be asked for. */
export interface LogView {
  toLatest(): void;
  /** Brings a message into view, loading some pages to find it. */
  show(seq: number): Promise<void>;
}

export class OpenRoom {
  readonly conversation: Conversation;
  readonly desk: Desk;
  log: LogView | undefined;
  /** The composer's field. */
  field: HTMLTextAreaElement | undefined;
  /** One's own message that is being changed. */
  editing = $state.raw<ChatMessage>();
  /** An edit that failed: its text goes back to the composer, as soon as that is free. */
  failedEdit = $state.raw<{ seq: number; text: string }>();
  /** The number of the message that is being answered. */
  replyTo = $state.raw<number>();
  readonly #messages;
  readonly #info;
  readonly #members;
  readonly #typing;
  readonly #state;
  readonly #hasOlder;

  constructor(conversation: Conversation, desk: Desk) {
    this.conversation = conversation;
    this.desk = desk;
    this.#messages = value(conversation.messages);
    this.#info = value(conversation.info);
    this.#members = value(conversation.members);
    this.#typing = value(conversation.typing);
    this.#state = value(conversation.state);
    this.#hasOlder = value(conversation.hasOlder);
  }

  get messages(): readonly ChatMessage[] {
    return this.#messages.current;
  }

  /** Whether the server has messages before those of the list. */
  get hasOlder(): boolean {
    return this.#hasOlder.current;
  }

  get info(): ConversationInfo | undefined {
    return this.#info.current;
  }

  /** Those of a room that is not too large; the two of a direct conversation. */
  get members(): readonly ConversationMember[] {
    return this.info && this.info.memberCount <= SMALL ? this.#members.current : NOBODY;
  }

  /** Whom one may want to mention: the members, or where those are too many, who has written. */
  get people(): string[] {
    const names = this.members.length
      ? this.members.map(({ user }) => user)
      : this.messages.map(({ from }) => from).reverse();
    return [...new Set(names)].filter((name) => name !== this.me);
  }

  get typing(): readonly string[] {
    return this.#typing.current;
  }

  get id(): string {
    return this.conversation.id;
  }

  get me(): string {
    return this.desk.me;
  }

  get peer(): string | undefined {
    return peerOf(this.id, this.me);
  }

  get name(): string {
    return nameOf(this.id, this.info?.title, this.me, this.desk.language);
  }

  /** A direct conversation without messages is not there yet, and may be begun. */
  get state(): "loading" | "ready" | "missing" {
    const state = this.#state.current;
    if (state === "joinable") return "missing";
    return state === "missing" && this.peer !== undefined ? "ready" : state;
  }

  get canWrite(): boolean {
    return this.peer !== undefined || (this.info !== undefined && this.info.role !== "reader");
  }

  find(seq: number): ChatMessage | undefined {
    return this.messages.find((message) => message.seq === seq);
  }

  reply(message: ChatMessage): void {
    this.editing = undefined;
    this.replyTo = message.seq;
    this.field?.focus();
  }

  edit(message: ChatMessage): void {
    this.editing = message;
    this.field?.focus();
  }

  /** One's own reaction, set or taken back. */
  react(message: ChatMessage, emoji: string): void {
    const users = message.reactions[emoji] ?? message.reactions[folded(emoji)];
    const mine = users?.includes(this.me) ?? false;
    this.desk.notices.watch(this.conversation.react(message.seq!, emoji, !mine));
  }
}
