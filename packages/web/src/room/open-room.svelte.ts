// The open conversation, with the state that its components share.

import type { ChatMessage, Conversation, ConversationInfo, ConversationMember, Notice } from "@switchboard/client";
import { value } from "@switchboard/client/svelte";
import type { AppState } from "../app/app-state.svelte.js";
import { mayContact } from "../app/permissions.js";
import { nameOf, peerOf } from "../conversations/name.js";
import { withoutEmojiSelector } from "../emoji/reaction.js";
import { recent } from "../emoji/recent.svelte.js";
import type { Past } from "../log/past.svelte.js";

/** In larger rooms the server signals no members' cursors, and loading all members would take too long. */
const MAX_MEMBERS = 100;
const NO_MEMBERS: readonly ConversationMember[] = [];

/** The actions that the log offers to other components. */
export interface LogView {
  scrollToLatest(): void;
  /** Removes the line above the unread messages, because the user has answered them. */
  answered(): void;
  /** Scrolls a message into view, and loads pages to find it. */
  show(seq: number): Promise<void>;
}

export class OpenRoom {
  readonly conversation: Conversation;
  readonly appState: AppState;
  log: LogView | undefined;
  /** The composer's text field, for other components that move the focus to it. */
  field = $state.raw<HTMLTextAreaElement>();
  /** The user's message that is being edited. */
  editing = $state.raw<ChatMessage>();
  /** An edit that failed: the composer opens it again when no other edit is open. */
  failedEdit = $state.raw<{ seq: number; text: string }>();
  /** The messages around an earlier place, while the log shows them in place of the latest ones. */
  past = $state.raw<Past>();
  /** The seq of the message that the composer replies to. */
  replyTo = $state.raw<number>();
  readonly #messages;
  readonly #timeline;
  readonly #info;
  readonly #members;
  readonly #typing;
  readonly #state;
  readonly #hasOlder;

  constructor(conversation: Conversation, appState: AppState) {
    this.conversation = conversation;
    this.appState = appState;
    this.#messages = value(conversation.messages);
    this.#timeline = value(conversation.timeline);
    this.#info = value(conversation.info);
    this.#members = value(conversation.members);
    this.#typing = value(conversation.typing);
    this.#state = value(conversation.state);
    this.#hasOlder = value(conversation.hasOlder);
  }

  get messages(): readonly ChatMessage[] {
    return this.#messages.current;
  }

  /** The messages with what else happened in the room. */
  get timeline(): readonly (ChatMessage | Notice)[] {
    return this.past?.messages ?? this.#timeline.current;
  }

  /** Whether the server has messages before the loaded ones. */
  get hasOlder(): boolean {
    return this.past?.hasOlder ?? this.#hasOlder.current;
  }

  get info(): ConversationInfo | undefined {
    return this.#info.current;
  }

  /** The members; empty in a room of more than `MAX_MEMBERS`. */
  get members(): readonly ConversationMember[] {
    return this.info && this.info.memberCount <= MAX_MEMBERS ? this.#members.current : NO_MEMBERS;
  }

  /** Users to suggest for mentions: the members, or in a large room the authors of the loaded messages. */
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
    return this.appState.me;
  }

  get peer(): string | undefined {
    return peerOf(this.id, this.me);
  }

  get name(): string {
    const { single, name } = this.appState.host;
    if (single && name) return name;
    return nameOf(this.id, this.info?.title, this.appState);
  }

  /** The id, or the embedding page's name, from which the picture is made. */
  get face(): string {
    const { single, name } = this.appState.host;
    return (single && name) || (this.peer ?? this.id);
  }

  /** A direct conversation without messages does not exist on the server yet, but the user may write to it. */
  get state(): "loading" | "ready" | "missing" | "ended" {
    const state = this.#state.current;
    if (state === "joinable") return "missing";
    return state === "missing" && this.peer !== undefined ? "ready" : state;
  }

  get canWrite(): boolean {
    return (this.peer !== undefined && !this.isOutOfReach) || (this.info !== undefined && this.info.role !== "reader");
  }

  /** Whether this is a direct conversation without messages, and the user may not begin it. */
  get isOutOfReach(): boolean {
    const { peer } = this;
    if (peer === undefined || peer === this.me || this.info || this.messages.length) return false;
    return this.state !== "loading" && !mayContact(this.appState.permissions, peer);
  }

  find(seq: number): ChatMessage | undefined {
    const wanted = (message: ChatMessage) => message.seq === seq;
    return this.past?.messages.find(wanted) ?? this.messages.find(wanted);
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

  /** Toggles the user's own reaction. */
  react(message: ChatMessage, emoji: string): void {
    const users = message.reactions[emoji] ?? message.reactions[withoutEmojiSelector(emoji)];
    const mine = users?.includes(this.me) ?? false;
    if (!mine) recent.add(emoji);
    this.appState.notices.showFailure(this.conversation.react(message.seq!, emoji, !mine));
  }
}
