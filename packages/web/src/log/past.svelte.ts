// Messages around an earlier place of the log, shown in place of the latest ones. They reach further as the user scrolls, and
// give way to the latest messages once they meet the end.

import type { ChatMessage, Conversation, MessageWindow } from "@switchboard/client";

export class Past {
  #messages = $state.raw<readonly ChatMessage[]>([]);
  #hasOlder = $state.raw(false);
  #hasNewer = $state.raw(true);
  #conversation: Conversation;

  private constructor(conversation: Conversation) {
    this.#conversation = conversation;
  }

  /** The messages around an event. Rejects with a `ChatError` if the log does not reach so far. */
  static async around(conversation: Conversation, seq: number): Promise<Past> {
    const past = new Past(conversation);
    const { messages, hasOlder, hasNewer } = await conversation.around(seq);
    past.#messages = messages;
    past.#hasOlder = hasOlder;
    past.#hasNewer = hasNewer;
    return past;
  }

  get messages(): readonly ChatMessage[] {
    return this.#messages;
  }

  get hasOlder(): boolean {
    return this.#hasOlder;
  }

  /** Whether there are messages after these. */
  get hasNewer(): boolean {
    return this.#hasNewer;
  }

  async loadOlder(): Promise<void> {
    const first = this.#messages[0]?.seq;
    if (first === undefined) return;
    this.#hasOlder = (await this.#load(first)).hasOlder;
  }

  async loadNewer(): Promise<void> {
    const last = this.#messages.at(-1)?.seq;
    if (last === undefined) return;
    this.#hasNewer = (await this.#load(last)).hasNewer;
  }

  /** Loads a message again, because an event has changed it. */
  async refresh(seq: number): Promise<void> {
    if (this.#messages.some((message) => message.seq === seq)) await this.#load(seq);
  }

  async #load(seq: number): Promise<MessageWindow> {
    const window = await this.#conversation.around(seq);
    const bySeq = new Map([...this.#messages, ...window.messages].map((message) => [message.seq!, message]));
    this.#messages = [...bySeq.values()].sort((a, b) => a.seq! - b.seq!);
    return window;
  }
}
