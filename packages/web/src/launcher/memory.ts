// What the launcher remembers: whether the panel is open, until the tab is closed; which teaser was dismissed, for good. The
// browser's storage may be blocked; then nothing is remembered.

type Kind = "localStorage" | "sessionStorage";

function read(kind: Kind, name: string): string {
  try {
    return globalThis[kind].getItem(name) ?? "";
  } catch {
    return "";
  }
}

function write(kind: Kind, name: string, value: string): void {
  try {
    if (value) globalThis[kind].setItem(name, value);
    else globalThis[kind].removeItem(name);
  } catch {
    // The storage is full or blocked.
  }
}

export class Memory {
  #scope: () => string;

  constructor(scope: () => string) {
    this.#scope = scope;
  }

  get open(): boolean {
    return read("sessionStorage", this.#name("open")) !== "";
  }

  set open(open: boolean) {
    write("sessionStorage", this.#name("open"), open ? "1" : "");
  }

  /** The text of the teaser that the user has dismissed. */
  get dismissed(): string {
    return read("localStorage", this.#name("teaser"));
  }

  set dismissed(text: string) {
    if (text) write("localStorage", this.#name("teaser"), text);
  }

  clear(): void {
    write("sessionStorage", this.#name("open"), "");
    write("localStorage", this.#name("teaser"), "");
  }

  #name(what: string): string {
    return `switchboard:launcher ${this.#scope()} ${what}`;
  }
}
