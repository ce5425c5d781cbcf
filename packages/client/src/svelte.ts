// Svelte: a chat for a tree of components, and reactive values for templates, `$derived` and `$effect`.

import { getContext, onMount, setContext } from "svelte";
import { createSubscriber } from "svelte/reactivity";
import { connect } from "@switchboard/client";
import type { Messages } from "./bindings.js";
import type { Chat, ChatOptions, Conversation, Readable } from "./types.js";
import { markReadWhileVisible } from "./visible.js";

/**
 * The value of a readable as `current`. The argument may be a function that returns the readable,
 * `value(() => room.messages)`, if the readable changes. Each readable is also a Svelte store: `$messages` works for
 * `const { messages } = room`.
 */
export function value<T>(readable: Readable<T> | (() => Readable<T>)): { readonly current: T } {
  const get = typeof readable === "function" ? readable : () => readable;
  let followed: Readable<T> | undefined;
  let subscribe: () => void;
  return {
    get current() {
      const now = get();
      if (now !== followed) {
        followed = now;
        subscribe = createSubscriber((update) => now.subscribe(update));
      }
      subscribe();
      return now.getSnapshot();
    },
  };
}

const key = Symbol("switchboard chat");

/**
 * Provides a chat to the components below: one that the app has made, or with a URL and options a new one. The new chat is
 * connected while the component is mounted, and never while a server renders.
 */
export function provideChat(chat: Chat): Chat;
export function provideChat(url: string, options: ChatOptions): Chat;
export function provideChat(from: Chat | string, options?: ChatOptions): Chat {
  if (typeof from !== "string") return setContext(key, from);
  const chat = connect(from, { ...options, start: false });
  onMount(() => {
    chat.start();
    return () => chat.close();
  });
  return setContext(key, chat);
}

/** The chat that a component above has provided. */
export function useChat(): Chat {
  const chat = getContext<Chat | undefined>(key);
  if (!chat) throw new Error("useChat: no component above has called provideChat");
  return chat;
}

export type { Messages };

/**
 * The messages of a conversation, which is given by name or as an object, and the methods for them. `of` is a function,
 * because the name may change: `useMessages(() => id)`. Read the fields where they are shown, without destructuring.
 */
export function useMessages(of: () => string | Conversation): Messages {
  const chat = getContext<Chat | undefined>(key);
  const conversation = () => {
    const conversationOrId = of();
    if (typeof conversationOrId !== "string") return conversationOrId;
    if (!chat) throw new Error("useMessages: no component above has called provideChat");
    return chat.conversation(conversationOrId);
  };
  const messages = value(() => conversation().messages);
  const state = value(() => conversation().state);
  const hasOlder = value(() => conversation().hasOlder);
  return {
    get conversation() {
      return conversation();
    },
    get messages() {
      return messages.current;
    },
    get state() {
      return state.current;
    },
    get hasOlder() {
      return hasOlder.current;
    },
    loadOlder: () => conversation().loadOlder(),
    send: (message) => conversation().send(message),
    markRead: (upto) => conversation().markRead(upto),
  };
}

/**
 * An attachment for an element at the end of the messages. It marks them as read while the user can see the element:
 * `<div {@attach markRead(room)}></div>` (Svelte 5.29).
 */
export function markRead(conversation: Conversation): (element: Element) => () => void {
  return (element) => markReadWhileVisible(element, conversation);
}
