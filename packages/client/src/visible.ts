import type { Conversation } from "./types.js";

/**
 * Marks a conversation as read while the user can see `element`, which is at the end of its messages: it is scrolled into
 * view, and the page is visible. Returns a function that ends this.
 */
export function markReadWhileVisible(
  element: Element,
  conversation: Pick<Conversation, "messages" | "markRead">,
): () => void {
  const page = element.ownerDocument;
  const observer = new IntersectionObserver((entries) => {
    if (entries.at(-1)?.isIntersecting && page.visibilityState === "visible") conversation.markRead();
  });
  // An observer reports the position when it begins to observe, so this checks whether a new message moved the end out of view.
  const checkPosition = () => {
    observer.unobserve(element);
    observer.observe(element);
  };
  page.addEventListener("visibilitychange", checkPosition);
  const unsubscribe = conversation.messages.subscribe(checkPosition);
  return () => {
    observer.disconnect();
    page.removeEventListener("visibilitychange", checkPosition);
    unsubscribe();
  };
}
