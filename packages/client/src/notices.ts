// Notices between the messages of a list (joins, leaves, renames, roles), for apps that show them. A page of history has only
// messages, so the events between them are read from the log, as far back as the list goes.

import { compact } from "./compact.js";
import type { Event, LogBody, Seq } from "./protocol.js";
import type { StoredMessage } from "./timeline.js";
import type { Notice } from "./types.js";

/** The most events that one request for a page of the log asks for. */
const PAGE = 200;
/** The most pages that one call of `load` requests. */
const PAGES = 10;

/** The types of events that become notices. */
const TYPES: readonly string[] = ["create", "join", "leave", "invite", "remove", "role", "rename"];

/** The notice for an event; `undefined` if its type becomes none. */
function noticeOf(event: Event): Notice | undefined {
  if (!TYPES.includes(event.type)) return undefined;
  const { type, seq, from, at, user, role, title } = event as Partial<Notice> & Pick<Event, "seq" | "from" | "at">;
  return compact<Notice>({ kind: "notice", id: `#${seq}`, type, seq, from, at, user, role, title } as Notice);
}

export class Notices {
  /** For each event that was read, by its seq: the notice, or `undefined` if there is none to show. */
  #known = new Map<Seq, Notice | undefined>();
  #loading = false;
  /** The oldest message of the list at the last call of `forget`. */
  #oldest: Seq | undefined;

  note(event: Event): void {
    this.#known.set(event.seq, noticeOf(event));
  }

  /** Forgets events before the list's first message; they are read again when the messages there are loaded. */
  forget(oldest: Seq): void {
    if (oldest === this.#oldest) return;
    this.#oldest = oldest;
    for (const seq of this.#known.keys()) if (seq < oldest) this.#known.delete(seq);
  }

  clear(): void {
    this.#known.clear();
  }

  /** Merges the notices into the messages. `beginning`: the list reaches back to the first event of the log. */
  weave<T extends { seq?: Seq }>(messages: readonly T[], beginning: boolean): (T | Notice)[] {
    const oldest = beginning ? 0 : (messages.find(({ seq }) => seq !== undefined)?.seq ?? Infinity);
    const notices = [...this.#known.values()].filter((notice) => notice && notice.seq > oldest) as Notice[];
    return [...messages, ...notices].sort((a, b) => (a.seq ?? Infinity) - (b.seq ?? Infinity) || 0);
  }

  /** Reads the unknown events between the messages and up to `cursor`. Returns whether there was a notice among them. */
  async load(
    messages: readonly StoredMessage[],
    beginning: boolean,
    cursor: Seq,
    log: { readLog(after: Seq, limit: number): Promise<LogBody> },
  ): Promise<boolean> {
    if (this.#loading) return false;
    this.#loading = true;
    let found = false;
    try {
      for (let pages = 0; pages < PAGES; pages++) {
        const last = this.#lastUnknown(messages, beginning, cursor);
        if (last === undefined) break;
        const after = Math.max(0, last - PAGE);
        const { events } = await log.readLog(after, last - after);
        for (let seq = after + 1; seq <= last; seq++) if (!this.#known.has(seq)) this.#known.set(seq, undefined);
        for (const event of events) this.note(event);
        found = true;
      }
    } finally {
      this.#loading = false;
    }
    return found;
  }

  /** The latest event in the range of the list that was not read yet. */
  #lastUnknown(messages: readonly StoredMessage[], beginning: boolean, cursor: Seq): Seq | undefined {
    let next = cursor + 1;
    for (let n = messages.length - 1; n >= (beginning ? -1 : 0); n--) {
      const seq = messages[n]?.seq ?? 0;
      for (let between = next - 1; between > seq; between--) if (!this.#known.has(between)) return between;
      next = seq;
    }
    return undefined;
  }
}
