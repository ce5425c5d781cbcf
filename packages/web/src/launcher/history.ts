// On phones, the browser's "back" closes the panel in place of leaving the page.

const MARK = "switchboardLauncher";

const isMarked = (state: unknown): boolean => typeof state === "object" && state !== null && MARK in state;

export class History {
  #onBack: () => void;
  #entered = false;

  constructor(onBack: () => void) {
    this.#onBack = onBack;
  }

  /** Adds an entry for the open panel. The page's own state stays, for its router. */
  enter(): void {
    if (this.#entered) return;
    this.#entered = true;
    history.pushState({ ...(history.state as object | null), [MARK]: true }, "");
    addEventListener("popstate", this.#onPop);
  }

  /** Removes the entry, if the panel was closed in another way. */
  leave(): void {
    if (!this.#entered) return;
    this.#entered = false;
    removeEventListener("popstate", this.#onPop);
    if (isMarked(history.state)) history.back();
  }

  #onPop = (): void => {
    if (isMarked(history.state)) return;
    this.#entered = false;
    removeEventListener("popstate", this.#onPop);
    this.#onBack();
  };
}
