/** A timer of a `Clock`'s. */
export type Timer = ReturnType<typeof setTimeout>;

/** Where all time comes from, so that tests can have another. */
export interface Clock {
  /** Milliseconds since some moment, for what is measured: nobody sets it. */
  now(): number;
  /** Milliseconds since the Unix epoch, for what is shown or kept. People set it, forwards and back. */
  wall(): number;
  setTimeout(act: () => void, delay?: number): Timer;
  clearTimeout(timer: Timer | undefined): void;
}

/** A longer delay would be over at once. */
const LONGEST = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => (globalThis.performance ?? Date).now(),
  wall: () => Date.now(),
  setTimeout: (act, delay = 0) => setTimeout(act, Math.min(delay, LONGEST)),
  clearTimeout: (timer) => clearTimeout(timer),
};

/** Does something when it is time; there is no more than one such time. */
export class Alarm {
  #clock: Clock;
  #act: () => void;
  #timer: Timer | undefined;

  constructor(clock: Clock, act: () => void) {
    this.#clock = clock;
    this.#act = act;
  }

  get isSet(): boolean {
    return this.#timer !== undefined;
  }

  /** In so many milliseconds, unless it is set already. */
  set(delay: number): void {
    this.#timer ??= this.#clock.setTimeout(() => {
      this.#timer = undefined;
      this.#act();
    }, delay);
  }

  /** In so many milliseconds from now; a time that was set before does not count. */
  reset(delay: number): void {
    this.clear();
    this.set(delay);
  }

  clear(): void {
    this.#clock.clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
