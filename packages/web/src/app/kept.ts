// What is kept in the browser. Storage may be full, or forbidden, as in a frame of another site: then it is forgotten.

function store(kind: "localStorage" | "sessionStorage"): Storage | undefined {
  try {
    return globalThis[kind];
  } catch {
    return undefined;
  }
}

class Kept {
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

  /** Without a value, it is removed. */
  set(name: string, value: string | undefined): void {
    try {
      if (value === undefined) store(this.#kind)?.removeItem(`switchboard:${name}`);
      else store(this.#kind)?.setItem(`switchboard:${name}`, value);
    } catch {
      // Forgotten.
    }
  }

  /** The names that begin like this. */
  names(prefix: string): string[] {
    const all = store(this.#kind);
    if (!all) return [];
    const names = Array.from({ length: all.length }, (_, index) => all.key(index) ?? "");
    return names
      .filter((name) => name.startsWith(`switchboard:${prefix}`))
      .map((name) => name.slice("switchboard:".length));
  }
}

/** For as long as the browser has it. */
export const device = new Kept("localStorage");
/** For as long as the tab is open. */
export const tab = new Kept("sessionStorage");
