import type { Conversation } from "./types.js";

/**
 * Marks a conversation as read while a person can see `element`, which stands at the end of its messages: it is scrolled
 * into view, and the page is in front. Returns what ends it.
 */
export function markReadWhileVisible(
  element: Element,
  conversation: Pick<Conversation, "messages" | "markRead">,
): () => void {
  const page = element.ownerDocument;
  const observer = new IntersectionObserver((entries) => {
    if (entries.at(-1)?.isIntersecting && page.visibilityState === "visible") conversation.markRead();
  });
  // It tells where the element is when it begins to observe. A new message may have moved the end out of view, or not.
  const look = () => {
    observer.unobserve(element);
    observer.observe(element);
  };
  page.addEventListener("visibilitychange", look);
  const unsubscribe = conversation.messages.subscribe(look);
  return () => {
    observer.disconnect();
    page.removeEventListener("visibilitychange", look);
    unsubscribe();
  };
}
