// Vue: a chat for a tree of components, and refs with its values.

import {
  computed,
  type ComputedRef,
  getCurrentInstance,
  inject,
  type InjectionKey,
  type MaybeRefOrGetter,
  onBeforeMount,
  onMounted,
  onUnmounted,
  provide,
  type ShallowRef,
  shallowRef,
  toValue,
  watch,
} from "vue";
import { connect } from "@switchboard/client";
import type { Chat, ChatMessage, ChatOptions, Conversation, Draft, Outgoing, Readable } from "./types.js";
import { markReadWhileVisible } from "./visible.js";

/** The value of a readable as a ref, until the component or effect scope ends. The readable itself may change. */
export function useValue<T>(readable: MaybeRefOrGetter<Readable<T>>): Readonly<ShallowRef<T>> {
  const instance = getCurrentInstance();
  // When the page is hydrated, the component shows the value of the server's render until it is mounted.
  const hydrating = !!instance?.vnode.el;
  const { getSnapshot, getInitialSnapshot } = toValue(readable);
  const value = shallowRef((hydrating && getInitialSnapshot ? getInitialSnapshot : getSnapshot)()) as ShallowRef<T>;
  const followReadable = () => {
    watch(
      () => toValue(readable),
      (now, _, onCleanup) => onCleanup(now.subscribe((next) => (value.value = next))),
      { immediate: true, flush: "sync" },
    );
  };
  // Hooks do not run while a server renders, so there is no subscription there.
  if (!instance) followReadable();
  else if (hydrating) onMounted(followReadable);
  else onBeforeMount(followReadable);
  return value;
}

/** The injection key of the chat: `app.provide(chatKey, chat)` does the same as `provideChat`, for the whole app. */
export const chatKey: InjectionKey<Chat> = Symbol("switchboard chat");

/**
 * Provides a chat to the components below: one that the app has made, or with a URL and options a new one. The new chat is
 * connected while the component is mounted, and never while a server renders.
 */
export function provideChat(chat: Chat): Chat;
export function provideChat(url: string, options: ChatOptions): Chat;
export function provideChat(from: Chat | string, options?: ChatOptions): Chat {
  let chat = from as Chat;
  if (typeof from === "string") {
    chat = connect(from, { ...options, start: false });
    onMounted(() => chat.start());
    onUnmounted(() => chat.close());
  }
  provide(chatKey, chat);
  return chat;
}

/** The chat that a component above has provided. */
export function useChat(): Chat {
  const chat = inject(chatKey, undefined);
  if (!chat) throw new Error("useChat: no component above has called provideChat");
  return chat;
}

/** A conversation by its name: `#general`, `@bob`, or a conversation id. The name may change. */
export function useConversation(id: MaybeRefOrGetter<string>): ComputedRef<Conversation> {
  const chat = useChat();
  return computed(() => chat.conversation(toValue(id)));
}

export interface Messages {
  readonly conversation: ComputedRef<Conversation>;
  readonly messages: Readonly<ShallowRef<readonly ChatMessage[]>>;
  readonly state: Readonly<ShallowRef<ReturnType<Conversation["state"]["getSnapshot"]>>>;
  /** Whether there are older messages than those in `messages`. */
  readonly hasOlder: Readonly<ShallowRef<boolean>>;
  loadOlder(): Promise<boolean>;
  send(message: string | Draft): Outgoing;
  markRead(upto?: number): void;
}

/** The messages of a conversation, which is given by name or as an object, and the methods for them. */
export function useMessages(of: MaybeRefOrGetter<string | Conversation>): Messages {
  const chat = inject(chatKey, undefined);
  const conversation = computed(() => {
    const conversationOrId = toValue(of);
    if (typeof conversationOrId !== "string") return conversationOrId;
    if (!chat) throw new Error("useMessages: no component above has called provideChat");
    return chat.conversation(conversationOrId);
  });
  return {
    conversation,
    messages: useValue(() => conversation.value.messages),
    state: useValue(() => conversation.value.state),
    hasOlder: useValue(() => conversation.value.hasOlder),
    loadOlder: () => conversation.value.loadOlder(),
    send: (message) => conversation.value.send(message),
    markRead: (upto) => conversation.value.markRead(upto),
  };
}

/** Marks a conversation as read while the user can see `end`, an element at the end of its messages. */
export function useMarkRead(
  conversation: MaybeRefOrGetter<Conversation>,
  end: MaybeRefOrGetter<Element | null | undefined>,
): void {
  watch(
    () => [toValue(conversation), toValue(end)] as const,
    ([room, element], _, onCleanup) => element && onCleanup(markReadWhileVisible(element, room)),
    { immediate: true, flush: "post" },
  );
}
