// Stores which conversation is open.

export interface Navigation {
  readonly conversation: string | undefined;
  open(conversation: string): void;
  close(): void;
}

/** Keeps the open conversation in memory, for an embedded app, because the address belongs to the embedding page. */
export class MemoryNavigation implements Navigation {
  #conversation = $state.raw<string>();

  constructor(conversation?: string) {
    this.#conversation = conversation || undefined;
  }

  get conversation(): string | undefined {
    return this.#conversation;
  }

  open(conversation: string): void {
    this.#conversation = conversation;
  }

  close(): void {
    this.#conversation = undefined;
  }
}

const PREFIX = "#/c/";

export const addressOf = (conversation: string): string => PREFIX + encodeURIComponent(conversation);

function read(): string | undefined {
  if (!location.hash.startsWith(PREFIX)) return undefined;
  try {
    return decodeURIComponent(location.hash.slice(PREFIX.length)) || undefined;
  } catch {
    return undefined;
  }
}

/** Keeps the open conversation in the address, `#/c/%23general`, so that the browser's "back" and a reload work. */
export class AddressNavigation implements Navigation {
  #conversation = $state.raw(read());

  constructor() {
    // Browsers fire `popstate` for hash changes, too.
    addEventListener("popstate", () => (this.#conversation = read()));
  }

  get conversation(): string | undefined {
    return this.#conversation;
  }

  open(conversation: string): void {
    if (conversation === this.#conversation) return;
    history.pushState({ fromList: this.#conversation === undefined }, "", addressOf(conversation));
    this.#conversation = conversation;
  }

  close(): void {
    if (this.#conversation === undefined) return;
    const state = history.state as { fromList?: boolean } | null;
    // If the previous entry is the list, go back to it, so that the history does not grow with every opened conversation.
    if (state?.fromList) return history.back();
    history.replaceState(null, "", "#/");
    this.#conversation = undefined;
  }
}
