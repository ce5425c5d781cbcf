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
  let inView = false;
  const look = () => {
    if (inView && page.visibilityState === "visible") conversation.markRead();
  };
  const observer = new IntersectionObserver((entries) => {
    inView = entries.at(-1)?.isIntersecting ?? false;
    look();
  });
  observer.observe(element);
  page.addEventListener("visibilitychange", look);
  // A new message may leave the end where it was, in view.
  const unsubscribe = conversation.messages.subscribe(look);
  return () => {
    observer.disconnect();
    page.removeEventListener("visibilitychange", look);
    unsubscribe();
  };
}
