/** A timer of a `Clock`. */
export type Timer = ReturnType<typeof setTimeout>;

/** The source of all times and timers, which tests can replace. */
export interface Clock {
  /** Milliseconds since an arbitrary moment, for durations: users cannot set this clock. */
  now(): number;
  /** Milliseconds since the Unix epoch, for times that are shown or stored. Users can set this clock, also back. */
  wall(): number;
  setTimeout(act: () => void, delay?: number): Timer;
  clearTimeout(timer: Timer | undefined): void;
}

/** The longest delay of a timer, in milliseconds: platforms fire timers with longer delays at once. */
const MAX_TIMER_DELAY_MS = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => (globalThis.performance ?? Date).now(),
  wall: () => Date.now(),
  setTimeout: (act, delay = 0) => setTimeout(act, Math.min(delay, MAX_TIMER_DELAY_MS)),
  clearTimeout: (timer) => clearTimeout(timer),
};

/** Calls a function at a set time. Only one time can be set at once. */
export class Alarm {
  #clock: Clock;
  #callback: () => void;
  #timer: Timer | undefined;

  constructor(clock: Clock, act: () => void) {
    this.#clock = clock;
    this.#callback = act;
  }

  get isSet(): boolean {
    return this.#timer !== undefined;
  }

  /** Sets the alarm to `delay` milliseconds from now, unless it is set already. */
  set(delay: number): void {
    this.#timer ??= this.#clock.setTimeout(() => {
      this.#timer = undefined;
      this.#callback();
    }, delay);
  }

  /** Sets the alarm to `delay` milliseconds from now, also if it is set already. */
  reset(delay: number): void {
    this.clear();
    this.set(delay);
  }

  clear(): void {
    this.#clock.clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
