// All messages are one Tab stop; arrow keys move between them. New messages never take the focus.

import type { Row } from "./rows.js";

export class Focus {
  /** The message that has or contains the focus. */
  #inside = $state.raw<string>();
  #rows: () => readonly Row[];
  /** The message that Tab enters: the focused one, otherwise the last. */
  #stop = $derived.by(() => {
    const rows = this.#rows();
    const inside = this.#inside;
    if (inside !== undefined && rows.some((row) => row.key === inside)) return inside;
    return rows.findLast((row) => row.kind === "message")?.key;
  });

  constructor(rows: () => readonly Row[]) {
    this.#rows = rows;
  }

  get inside(): string | undefined {
    return this.#inside;
  }

  get stop(): string | undefined {
    return this.#stop;
  }

  onFocusIn(event: FocusEvent): void {
    this.#inside = (event.target as HTMLElement).closest<HTMLElement>("article")?.dataset["row"];
  }

  onFocusOut(event: FocusEvent): void {
    const to = event.relatedTarget as Node | null;
    if (to === null || !(event.currentTarget as HTMLElement).contains(to)) this.#inside = undefined;
  }

  /** The index of the message to which a key moves from `article`; below 0 if that message is not drawn yet. */
  indexAfterKey(key: string, article: HTMLElement): number | undefined {
    const keys = this.#keys();
    const at = keys.indexOf(article.dataset["row"] ?? "");
    switch (key) {
      case "ArrowUp":
        return at - 1;
      case "ArrowDown":
        return Math.min(at + 1, keys.length - 1);
      case "PageUp":
        return at - 5;
      case "PageDown":
        return Math.min(at + 5, keys.length - 1);
      case "Home":
        return 0;
      case "End":
        return keys.length - 1;
      default:
        return undefined;
    }
  }

  focusMessage(log: HTMLElement, index: number): void {
    const keys = this.#keys();
    const key = keys[Math.min(Math.max(0, index), keys.length - 1)];
    if (key !== undefined) log.querySelector<HTMLElement>(`article[data-row="${CSS.escape(key)}"]`)?.focus();
  }

  #keys(): string[] {
    return this.#rows()
      .filter((row) => row.kind === "message")
      .map((row) => row.key);
  }
}
