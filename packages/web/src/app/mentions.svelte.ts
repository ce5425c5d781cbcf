// Which conversations have an unread message that mentions the user. The server does not know mentions: the page reads them in
// messages that arrive, in the last message of each conversation, and on demand in the unread messages.

import type { ConversationInfo } from "@switchboard/client";
import { parse } from "../text/markdown.js";
import type { Block, Inline } from "../text/tree.js";
import type { AppState } from "./app-state.svelte.js";

/** The most conversations whose unread messages one search reads, and the most messages of each. */
const MAX_SEARCHED = 20;
const MAX_MESSAGES = 100;

interface HistoryPage {
  messages: { seq: number; from: string; text?: string }[];
}

const inlineMentions = (nodes: readonly Inline[], user: string): boolean =>
  nodes.some((node) =>
    node.type === "mention" ? node.user === user : "children" in node && inlineMentions(node.children, user),
  );

const blockMentions = (block: Block, user: string): boolean => {
  if (block.type === "list") return block.items.some((item) => inlineMentions(item, user));
  if (block.type === "quote") return block.children.some((child) => blockMentions(child, user));
  return block.type === "paragraph" && inlineMentions(block.children, user);
};

/** Whether a text mentions a user, other than in code. */
export const mentionsUser = (text: string | undefined, user: string): boolean =>
  !!text?.includes(`@${user}`) && parse(text).some((block) => blockMentions(block, user));

export class Mentions {
  /** By conversation, the last known message that mentions the user. */
  #last = $state<Record<string, number>>({});
  /** By conversation, the end of the log when its unread messages were read. */
  #searched = new Map<string, number>();
  #appState: AppState;

  constructor(appState: AppState) {
    this.#appState = appState;
    appState.chat.on(
      "message",
      ({ message: { seq = 0, from, text }, conversation: { id } }) => this.#see(id, seq, from, text),
      { replay: "none" },
    );
  }

  /** Whether an unread message of the conversation is known to mention the user. */
  in({ id, read, last }: ConversationInfo): boolean {
    const { me } = this.#appState;
    if ((this.#last[id] ?? 0) > read) return true;
    return last !== undefined && (last.seq ?? 0) > read && last.from !== me && mentionsUser(last.text, me);
  }

  /** Reads the unread messages of the latest conversations. Rejects with a `ChatError` if the connection is lost. */
  async search(inbox: readonly ConversationInfo[]): Promise<void> {
    const unread = inbox.filter(({ id, unread, head }) => unread > 0 && this.#searched.get(id) !== head);
    for (const { id, read, head } of unread.slice(0, MAX_SEARCHED)) {
      const limit = Math.min(MAX_MESSAGES, head - read);
      const page = await this.#appState.chat.command<HistoryPage>("history", { conversation: id, limit });
      for (const { seq, from, text } of page.messages) if (seq > read) this.#see(id, seq, from, text);
      this.#searched.set(id, head);
    }
  }

  #see(id: string, seq: number, from: string, text: string | undefined): void {
    const { me } = this.#appState;
    if (from !== me && seq > (this.#last[id] ?? 0) && mentionsUser(text, me)) this.#last[id] = seq;
  }
}
