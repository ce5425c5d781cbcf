// Whether a person is looking. Only then has something been read.

import { createSubscriber } from "svelte/reactivity";
import { on } from "svelte/events";

const depend = createSubscriber((update) => {
  const ends = [on(document, "visibilitychange", update), on(window, "focus", update), on(window, "blur", update)];
  return () => ends.forEach((end) => end());
});

export const attention = {
  /** The page is in view and has the keyboard. */
  get here(): boolean {
    depend();
    return document.visibilityState === "visible" && document.hasFocus();
  },
};
