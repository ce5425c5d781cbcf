// Live announcements for screen readers. The log has `aria-live="off"`, so that nothing is read twice.

/** Texts within this time become one announcement, because a screen reader stops reading when the next one comes. */
const COALESCE_MS = 600;
/** If more texts than this come within `COALESCE_MS`, only their number is announced. */
const MAX_ANNOUNCED = 3;

export class Announcer {
  #text = $state.raw("");
  #waiting: string[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #count: (n: number) => string;

  /** `count` returns the text that announces only the number. */
  constructor(count: (n: number) => string) {
    this.#count = count;
  }

  get text(): string {
    return this.#text;
  }

  announce(text: string): void {
    this.#waiting.push(text);
    this.#timer ??= setTimeout(() => {
      const texts = this.#waiting.splice(0);
      this.#timer = undefined;
      const text = texts.length > MAX_ANNOUNCED ? this.#count(texts.length) : texts.join(". ");
      // Screen readers announce changes only, so a repeated text gets an invisible difference.
      this.#text = text === this.#text ? `${text}\u00a0` : text;
    }, COALESCE_MS);
  }
}
