import { useSyncExternalStore } from "react";
import type { Readable } from "./types.js";

/** The value of a store, in a component that renders again when it changes. */
export function useValue<T>(store: Readable<T>): T {
  return useSyncExternalStore(store.subscribe, store.getSnapshot, store.getSnapshot);
}
