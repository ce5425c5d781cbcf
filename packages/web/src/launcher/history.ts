// On phones, the browser's "back" closes the panel in place of leaving the page.

const MARK = "switchboardLauncher";

const isMarked = (state: unknown): boolean => typeof state === "object" && state !== null && MARK in state;

export class History {
  #onBack: () => void;
  #entered = false;
  /** Set while the entry is still to be removed. */
  #leaving: ReturnType<typeof setTimeout> | undefined;

  constructor(onBack: () => void) {
    this.#onBack = onBack;
  }

  /** Adds an entry for the open panel. The page's own state stays, for its router. */
  enter(): void {
    if (this.#entered) return;
    this.#entered = true;
    clearTimeout(this.#leaving);
    if (!isMarked(history.state)) history.pushState({ ...(history.state as object | null), [MARK]: true }, "");
    addEventListener("popstate", this.#onPop);
  }

  /**
   * Removes the entry, if the panel was closed in another way. In a task of its own, because a page may close the panel and
   * go to another address at once: then its own entry is the last one, and must stay.
   */
  leave(): void {
    if (!this.#entered) return;
    this.#entered = false;
    removeEventListener("popstate", this.#onPop);
    this.#leaving = setTimeout(() => isMarked(history.state) && history.back());
  }

  #onPop = (): void => {
    if (isMarked(history.state)) return;
    this.#entered = false;
    removeEventListener("popstate", this.#onPop);
    this.#onBack();
  };
}
