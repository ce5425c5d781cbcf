// The result of `useMessages` in React and in Svelte.

import type { ChatMessage, Conversation, Draft, Outgoing } from "./types.js";

/** The messages of a conversation, and the methods for them. */
export interface Messages {
  readonly conversation: Conversation;
  readonly messages: readonly ChatMessage[];
  readonly state: ReturnType<Conversation["state"]["getSnapshot"]>;
  /** Whether there are older messages than those in `messages`. */
  readonly hasOlder: boolean;
  loadOlder(): Promise<boolean>;
  send(message: string | Draft): Outgoing;
  markRead(upto?: number): void;
}
