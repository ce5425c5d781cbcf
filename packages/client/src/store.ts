import type { Readable } from "./types.js";

/** Calls a listener that an app registered. An exception is passed to `report` and does not stop the SDK. */
export function callListener<T, R>(
  listener: (value: T) => R,
  value: T,
  report: (error: unknown) => void,
): R | undefined {
  try {
    return listener(value);
  } catch (error) {
    report(error);
    return undefined;
  }
}

/** Callbacks of a store to its owner. */
export interface StoreHooks {
  /** Called after every new subscription. */
  onSubscribe?: () => void;
  /** Called after a subscription has ended. */
  onUnsubscribe?: () => void;
}

/** A value that is computed when it is read, and again after `changed()`. */
export class Store<T> implements Readable<T> {
  /** Called when a subscription outlives the current task. A render on a server unsubscribes before, so it never connects. */
  onUse: (() => void) | undefined;
  /** Receives exceptions of listeners. */
  report: (error: unknown) => void = console.error;
  #compute: () => T;
  #value: T | undefined;
  #initial: T;
  #isFresh = false;
  #publishIsPlanned = false;
  #listeners = new Set<{ listener: (value: T) => void; seen: T | undefined }>();
  #hooks: StoreHooks;
  #unsubscribeFromTarget: (() => void) | undefined;
  #target: Store<T> | undefined;

  constructor(compute: () => T, hooks: StoreHooks | (() => void) = {}) {
    this.#compute = compute;
    this.#hooks = typeof hooks === "function" ? { onSubscribe: hooks } : hooks;
    this.#initial = compute();
  }

  get isSubscribed(): boolean {
    return this.#listeners.size > 0;
  }

  // These are arrow functions, because frameworks call them without their object.
  readonly getSnapshot = (): T => {
    if (!this.#isFresh) {
      this.#value = this.#compute();
      this.#isFresh = true;
    }
    return this.#value as T;
  };

  readonly getInitialSnapshot = (): T => this.#initial;

  readonly subscribe = (listener: (value: T) => void): (() => void) => {
    const entry: { listener: typeof listener; seen: T | undefined } = { listener, seen: this.getSnapshot() };
    this.#listeners.add(entry);
    this.#followWhileSubscribed();
    callListener(listener, entry.seen as T, this.report);
    if (this.onUse) queueMicrotask(() => this.isSubscribed && this.onUse?.());
    this.#hooks.onSubscribe?.();
    return () => {
      if (!this.#listeners.delete(entry)) return;
      // Forgets the value, because the app may keep this function for longer.
      entry.seen = undefined;
      this.#followWhileSubscribed();
      this.#hooks.onUnsubscribe?.();
    };
  };

  readonly invalidate = (): void => {
    this.#isFresh = false;
    this.#value = undefined;
    if (this.#publishIsPlanned || !this.#listeners.size) return;
    this.#publishIsPlanned = true;
    queueMicrotask(() => {
      this.#publishIsPlanned = false;
      try {
        this.#publish(this.getSnapshot());
      } catch (error) {
        this.report(error);
      }
    });
  };

  /** Takes the value of another store from now on, because both belong to one conversation with two names. */
  follow(target: Store<T>): void {
    this.#compute = target.getSnapshot;
    this.#hooks = {};
    this.#target = target;
    this.#followWhileSubscribed();
    this.invalidate();
  }

  protected setCompute(compute: () => T): void {
    this.#compute = compute;
    this.invalidate();
  }

  #followWhileSubscribed(): void {
    if (!this.#target || this.isSubscribed === !!this.#unsubscribeFromTarget) return;
    if (this.isSubscribed) {
      this.#unsubscribeFromTarget = this.#target.subscribe(this.invalidate);
    } else {
      this.#unsubscribeFromTarget?.();
      this.#unsubscribeFromTarget = undefined;
      this.#isFresh = false;
    }
  }

  #publish(value: T): void {
    for (const entry of [...this.#listeners]) {
      if (entry.seen === value || !this.#listeners.has(entry)) continue;
      entry.seen = value;
      callListener(entry.listener, value, this.report);
    }
  }
}

/** A store whose value is set, not computed. */
export class Value<T> extends Store<T> {
  constructor(value: T) {
    super(() => value);
  }

  set(value: T): void {
    this.setCompute(() => value);
  }
}

/** Whether a listener wants missed messages; see `Listening` in types.ts. */
export type ReplayMode = "all" | "none";

interface Listener {
  callback: (value: never) => unknown;
  replay: ReplayMode;
}

/** Listeners by the name of the event. */
export class Emitter<Events> {
  #listeners = new Map<keyof Events, Set<Listener>>();
  #linkedEmitters: Emitter<Events>[] = [];
  #report: (error: unknown) => void;

  constructor(report: (error: unknown) => void) {
    this.#report = report;
  }

  on<K extends keyof Events>(
    event: K,
    callback: (value: Events[K]) => unknown,
    replay: ReplayMode = "all",
  ): () => boolean {
    const listeners = this.#listeners.get(event) ?? new Set();
    const listener = { callback, replay };
    this.#listeners.set(event, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  /** Whether the event has a listener, or with `replay` a listener with that option. */
  has(event: keyof Events, replay?: ReplayMode): boolean {
    for (const listener of this.#listeners.get(event) ?? []) if (!replay || listener.replay === replay) return true;
    return this.#linkedEmitters.some((other) => other.has(event, replay));
  }

  /** Emits all events of this emitter at the other one, too. */
  link(other: Emitter<Events>): void {
    this.#linkedEmitters.push(other);
  }

  /** Calls all listeners, or those with this `replay` only. */
  emit<K extends keyof Events>(event: K, value: Events[K], replay?: ReplayMode): void {
    void this.collect(event, value, replay);
  }

  /** Like `emit`; returns the promises that the listeners returned. */
  collect<K extends keyof Events>(event: K, value: Events[K], replay?: ReplayMode): Promise<unknown>[] {
    const promises: Promise<unknown>[] = [];
    const listeners = this.#listeners.get(event);
    for (const listener of [...(listeners ?? [])]) {
      // An earlier listener may have removed this one.
      if ((replay && listener.replay !== replay) || !listeners?.has(listener)) continue;
      const result = callListener(listener.callback as (value: Events[K]) => unknown, value, this.#report);
      if (result instanceof Promise) promises.push(result.catch(this.#report));
    }
    for (const other of this.#linkedEmitters) promises.push(...other.collect(event, value, replay));
    return promises;
  }
}
