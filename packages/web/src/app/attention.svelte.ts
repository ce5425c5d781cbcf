// Whether the user is looking at the page. Only then do messages count as read.

import { createSubscriber } from "svelte/reactivity";
import { on } from "svelte/events";

const dependOnFocus = createSubscriber((update) => {
  const ends = [on(document, "visibilitychange", update), on(window, "focus", update), on(window, "blur", update)];
  return () => ends.forEach((end) => end());
});

export const attention = {
  /** Whether the page is visible and has the focus. */
  get here(): boolean {
    dependOnFocus();
    return document.visibilityState === "visible" && document.hasFocus();
  },
};
