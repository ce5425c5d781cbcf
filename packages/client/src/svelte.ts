// Svelte: a chat for a tree of components, and reactive values for templates, `$derived` and `$effect`.

import { getContext, onMount, setContext } from "svelte";
import { createSubscriber } from "svelte/reactivity";
import { connect } from "@switchboard/client";
import type { Messages } from "./bindings.js";
import type { Chat, ChatOptions, Conversation, Readable } from "./types.js";
import { markReadWhileVisible } from "./visible.js";

/**
 * The value of a readable as `current`. With a function, `value(() => room.messages)`, another readable is followed. A readable
 * is also a Svelte store as it is: `$messages` works for `const { messages } = room`.
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
 * The chat of the components below: one that the app has made, or, by its address and options, one of this component's. That
 * one is connected while the component is mounted, and never while a server renders.
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
 * The messages of a conversation, by its name or as an object, and what one does with them. `of` is a function, so that a
 * name that changes is followed: `useMessages(() => id)`. Its fields are read where they are shown: do not take it apart.
 */
export function useMessages(of: () => string | Conversation): Messages {
  const chat = getContext<Chat | undefined>(key);
  const conversation = () => {
    const given = of();
    if (typeof given !== "string") return given;
    if (!chat) throw new Error("useMessages: no component above has called provideChat");
    return chat.conversation(given);
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
 * An attachment for an element at the end of the messages, which marks them as read while a person can see it:
 * `<div {@attach markRead(room)}></div>` (Svelte 5.29).
 */
export function markRead(conversation: Conversation): (element: Element) => () => void {
  return (element) => markReadWhileVisible(element, conversation);
}
