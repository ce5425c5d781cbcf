// The current minute, for texts such as "Today" that become wrong as time passes.

import { createSubscriber } from "svelte/reactivity";

const MINUTE_MS = 60_000;

const dependOnMinute = createSubscriber((update) => {
  const timer = setInterval(update, MINUTE_MS);
  // A laptop that wakes up has missed the timer.
  document.addEventListener("visibilitychange", update);
  return () => {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", update);
  };
});

export const clock = {
  /** The current time; an effect or a component that reads it runs again every minute. */
  get now(): Date {
    dependOnMinute();
    return new Date();
  },
};
