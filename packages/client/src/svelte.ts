import { createSubscriber } from "svelte/reactivity";
import type { Readable } from "./types.js";

/**
 * The value of a store as `current`, which templates, `$derived` and `$effect` follow. A store is also a Svelte store as it
 * is: `$messages` works for `const { messages } = room`.
 */
export function value<T>(store: Readable<T>): { readonly current: T } {
  const subscribe = createSubscriber((update) => store.subscribe(update));
  return {
    get current() {
      subscribe();
      return store.getSnapshot();
    },
  };
}
