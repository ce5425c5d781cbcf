import type { Readable } from "./types.js";

/** Calls what an app registered: its mistake is told, and stops nothing of ours. */
export function call<T>(listener: (value: T) => void, value: T): void {
  try {
    listener(value);
  } catch (error) {
    console.error(error);
  }
}

/** A value computed from what its owner knows, anew after `changed()`. */
export class Store<T> implements Readable<T> {
  #value: T | undefined;
  #initial: T;
  #fresh = false;
  #queued = false;
  #listeners = new Set<{ listener: (value: T) => void; told: T | undefined }>();
  #watched: (() => void) | undefined;
  /** Called when a subscription outlives the moment: a server that renders subscribes for no longer, if at all. */
  onUse: (() => void) | undefined;

  /** `watched` is called with every subscription. */
  constructor(
    protected compute: () => T,
    watched?: () => void,
  ) {
    this.#watched = watched;
    this.#initial = compute();
  }

  get subscribed(): boolean {
    return this.#listeners.size > 0;
  }

  // Arrow functions, since frameworks take them apart from their object.
  readonly getSnapshot = (): T => {
    if (!this.#fresh) {
      this.#value = this.compute();
      this.#fresh = true;
    }
    return this.#value as T;
  };

  readonly getInitialSnapshot = (): T => this.#initial;

  readonly subscribe = (listener: (value: T) => void): (() => void) => {
    const entry = { listener, told: this.getSnapshot() };
    this.#listeners.add(entry);
    call(listener, entry.told);
    this.#watched?.();
    if (this.onUse) queueMicrotask(() => this.subscribed && this.onUse?.());
    return () => void this.#listeners.delete(entry);
  };

  readonly changed = (): void => {
    this.#fresh = false;
    if (this.#queued || !this.#listeners.size) return;
    this.#queued = true;
    queueMicrotask(() => {
      this.#queued = false;
      const value = this.getSnapshot();
      for (const entry of [...this.#listeners]) {
        if (entry.told === value || !this.#listeners.has(entry)) continue;
        entry.told = value;
        call(entry.listener, value);
      }
    });
  };
}

/** A store whose value is set. */
export class Value<T> extends Store<T> {
  constructor(value: T) {
    super(() => value);
  }

  set(value: T): void {
    this.compute = () => value;
    this.changed();
  }
}

/** Listeners by the name of what they listen to. */
export class Emitter<Events> {
  #listeners = new Map<keyof Events, Set<(value: never) => void>>();

  on<K extends keyof Events>(event: K, listener: (value: Events[K]) => void): () => void {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  has(event: keyof Events): boolean {
    return !!this.#listeners.get(event)?.size;
  }

  emit<K extends keyof Events>(event: K, value: Events[K]): void {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) {
      call(listener as (value: Events[K]) => void, value);
    }
  }
}
