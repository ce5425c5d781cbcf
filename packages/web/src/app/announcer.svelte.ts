// What a screen reader is told of by itself. The log is silent (`aria-live="off"`), so that nothing is said twice.

/** Milliseconds in which texts are gathered: one announcement that follows another cuts it off. */
const GATHER = 600;
/** More than so many at once are only counted. */
const MOST = 3;

export class Announcer {
  #text = $state.raw("");
  #waiting: string[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #count: (n: number) => string;

  /** `count` says how many there were, when they are too many. */
  constructor(count: (n: number) => string) {
    this.#count = count;
  }

  get text(): string {
    return this.#text;
  }

  say(text: string): void {
    this.#waiting.push(text);
    this.#timer ??= setTimeout(() => {
      const texts = this.#waiting.splice(0);
      this.#timer = undefined;
      const text = texts.length > MOST ? this.#count(texts.length) : texts.join(". ");
      // The same text once more would be no change, and not be said.
      this.#text = text === this.#text ? `${text}\u00a0` : text;
    }, GATHER);
  }
}
