// The browser's storage. It may be full or blocked, as in a frame of another site; then values are silently not stored.

function store(kind: "localStorage" | "sessionStorage"): Storage | undefined {
  try {
    return globalThis[kind];
  } catch {
    return undefined;
  }
}

class SafeStorage {
  #kind: "localStorage" | "sessionStorage";

  constructor(kind: "localStorage" | "sessionStorage") {
    this.#kind = kind;
  }

  get(name: string): string | undefined {
    try {
      return store(this.#kind)?.getItem(`switchboard:${name}`) ?? undefined;
    } catch {
      return undefined;
    }
  }

  /** Stores the value; `undefined` removes the entry. */
  set(name: string, value: string | undefined): void {
    try {
      if (value === undefined) store(this.#kind)?.removeItem(`switchboard:${name}`);
      else store(this.#kind)?.setItem(`switchboard:${name}`, value);
    } catch {
      // The storage is full or blocked, so the value is not stored.
    }
  }

  /** All stored names with this prefix. */
  names(prefix: string): string[] {
    const all = store(this.#kind);
    if (!all) return [];
    const names = Array.from({ length: all.length }, (_, index) => all.key(index) ?? "");
    return names
      .filter((name) => name.startsWith(`switchboard:${prefix}`))
      .map((name) => name.slice("switchboard:".length));
  }
}

/** The storage for values that stay until they are removed. */
export const localStore = new SafeStorage("localStorage");
/** The storage for values that stay until the tab is closed. */
export const tabStore = new SafeStorage("sessionStorage");
