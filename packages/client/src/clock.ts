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
