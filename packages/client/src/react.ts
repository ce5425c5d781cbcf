// React: a chat for a tree of components, and hooks that render again when its state changes.

import {
  createContext,
  createElement,
  type ReactNode,
  type RefCallback,
  useCallback,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";
import { connect } from "@switchboard/client";
import { markReadWhileVisible } from "./visible.js";
import type { Messages } from "./bindings.js";
import type { Chat, ChatOptions, Conversation, Draft, Readable } from "./types.js";

/**
 * Milliseconds between the last unmount and the end of the connection. React mounts twice in strict mode, and again after a
 * hot reload; those mounts reuse the connection.
 */
const CLOSE_DELAY_MS = 1_000;

/** A chat that the app has made, or the URL and the options of one that the provider makes. */
export type ChatProviderProps = { children?: ReactNode } & (
  { chat: Chat; url?: never } | ({ chat?: never; url: string } & ChatOptions)
);

/** The value of a readable; the component renders again when it changes. */
export function useValue<T>(readable: Readable<T>): T {
  return useSyncExternalStore(
    readable.subscribe,
    readable.getSnapshot,
    readable.getInitialSnapshot ?? readable.getSnapshot,
  );
}

const ChatContext = createContext<Chat | undefined>(undefined);

/**
 * Provides a chat to the components below. With `url`, the provider connects when it is mounted in a browser, never while a
 * server renders, and disconnects a moment after it was unmounted. Another `url`, `user` or `token` string makes a new
 * connection; another `token` function is used for later tokens. Other options are read when the connection is made.
 */
export function ChatProvider(props: ChatProviderProps): ReactNode {
  const { children } = props;
  if (props.chat) return createElement(ChatContext, { value: props.chat }, children);
  const { url, user, token } = props;
  // Another URL, name or token may mean another user, so React creates the whole tree anew, without data of the previous user.
  const key = JSON.stringify([url, user, typeof token === "string" ? token : null]);
  return createElement(OwnedChatProvider, { ...props, key });
}

function OwnedChatProvider({ children, ...options }: { children?: ReactNode; url: string } & ChatOptions): ReactNode {
  const latest = useRef(options);
  const [own, setOwn] = useState(() => makeOwnedChat(latest));
  useEffect(() => {
    latest.current = options;
  });
  useEffect(() => {
    // If React kept the tree hidden, its chat may have been closed meanwhile; then a new one is made.
    if (own.open()) return () => own.closeSoon();
    return setOwn(makeOwnedChat(latest));
  }, [own]);
  return createElement(ChatContext, { value: own.chat }, children);
}

/** A chat that is connected while it is mounted. Creating it has no effect, because React may discard a render. */
function makeOwnedChat(latest: { current: { url: string } & ChatOptions }) {
  const { url, ...options } = latest.current;
  if (typeof options.token === "function") {
    options.token = (context) => (latest.current.token as Exclude<ChatOptions["token"], string | undefined>)(context);
  }
  const chat = connect(url, { ...options, start: false });
  let closing: ReturnType<typeof setTimeout> | undefined;
  let closed = false;
  return {
    chat,
    /** Connects. Returns `false` if the chat was closed. */
    open(): boolean {
      clearTimeout(closing);
      if (!closed) chat.start();
      return !closed;
    },
    closeSoon(): void {
      closing = setTimeout(() => {
        closed = true;
        chat.close();
      }, CLOSE_DELAY_MS);
    },
  };
}

/** The chat of the nearest `ChatProvider`. */
export function useChat(): Chat {
  const chat = useContext(ChatContext);
  if (!chat) throw new Error("useChat: there is no <ChatProvider> above this component");
  return chat;
}

/** A conversation by its name: `#general`, `@bob`, or a conversation id. */
export function useConversation(id: string): Conversation {
  const chat = useChat();
  return useMemo(() => chat.conversation(id), [chat, id]);
}

export type { Messages };

/** The messages of a conversation, which is given by name or as an object, and the methods for them. */
export function useMessages(of: string | Conversation): Messages {
  const chat = useContext(ChatContext);
  const conversation = useMemo(() => {
    if (typeof of !== "string") return of;
    if (!chat) throw new Error("useMessages: there is no <ChatProvider> above this component");
    return chat.conversation(of);
  }, [chat, of]);
  const actions = useMemo(
    () => ({
      conversation,
      loadOlder: () => conversation.loadOlder(),
      send: (message: string | Draft) => conversation.send(message),
      markRead: (upto?: number) => conversation.markRead(upto),
    }),
    [conversation],
  );
  const messages = useValue(conversation.messages);
  const state = useValue(conversation.state);
  const hasOlder = useValue(conversation.hasOlder);
  return useMemo(() => ({ ...actions, messages, state, hasOlder }), [actions, messages, state, hasOlder]);
}

/**
 * Marks a conversation as read while the user can see its end: use the result as the `ref` of an element at the end of the list.
 */
export function useMarkRead(conversation: Conversation): RefCallback<Element> {
  const stopMarking = useRef<() => void>(undefined);
  return useCallback(
    (element: Element | null) => {
      stopMarking.current?.();
      stopMarking.current = element ? markReadWhileVisible(element, conversation) : undefined;
    },
    [conversation],
  );
}
