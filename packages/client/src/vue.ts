import { onScopeDispose, type ShallowRef, shallowRef } from "vue";
import type { Readable } from "./types.js";

/** The value of a store as a ref, for as long as the component, or the effect scope, lives. */
export function useValue<T>(store: Readable<T>): Readonly<ShallowRef<T>> {
  const value = shallowRef(store.getSnapshot()) as ShallowRef<T>;
  onScopeDispose(store.subscribe((next) => (value.value = next)));
  return value;
}
