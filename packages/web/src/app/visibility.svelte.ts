// Whether the user can see an embedded app. The page around it may hide it, or scroll it out of view.

import { createSubscriber } from "svelte/reactivity";
import { on } from "svelte/events";
import type { Attention } from "./host.js";

/** The part of the app, or of the window, that must be in view. */
const MIN_PART = 0.5;
/** How often to check styles that hide an element in place: browsers report no change of `visibility` or `opacity`. */
const CHECK_MS = 1_000;

export class Visibility implements Attention {
  #element: Element;
  #needsFocus: boolean;
  #inView = false;
  /** What `here` returned last. */
  #last = false;
  #depend: () => void;

  /** `needsFocus`: whether the document must have the focus. A frame has it only after the user has clicked into it. */
  constructor(element: Element, needsFocus: boolean) {
    this.#element = element;
    this.#needsFocus = needsFocus;
    this.#depend = createSubscriber((update) => this.#observe(update));
  }

  get here(): boolean {
    this.#depend();
    return (this.#last = this.#compute());
  }

  #compute(): boolean {
    return this.#inView && this.#isRendered() && (!this.#needsFocus || document.hasFocus());
  }

  #isRendered(): boolean {
    if (document.visibilityState !== "visible" || !this.#element.clientHeight) return false;
    return this.#element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  }

  #observe(update: () => void): () => void {
    const observer = new IntersectionObserver(
      (entries) => {
        const { intersectionRatio, intersectionRect, isIntersecting } = entries.at(-1)!;
        this.#inView =
          isIntersecting && (intersectionRatio >= MIN_PART || intersectionRect.height >= innerHeight * MIN_PART);
        update();
      },
      { threshold: [0, 0.25, MIN_PART, 0.75] },
    );
    observer.observe(this.#element);
    const timer = setInterval(() => this.#compute() !== this.#last && update(), CHECK_MS);
    const ends = [on(document, "visibilitychange", update), on(window, "focus", update), on(window, "blur", update)];
    return () => {
      observer.disconnect();
      clearInterval(timer);
      for (const end of ends) end();
    };
  }
}
