// Notices between the messages of a list (joins, leaves, renames, roles, withheld messages), for apps that show them. A page of
// history has only messages, so the events between them are read from the log, as far back as the list goes.

import { compact } from "./compact.js";
import type { Event, LogBody, Seq } from "./protocol.js";
import type { StoredMessage } from "./timeline.js";
import type { Notice } from "./types.js";

/** The most events that one request for a page of the log asks for. */
const PAGE_SIZE = 200;
/** The most pages that one call of `load` requests. */
const MAX_PAGES_PER_LOAD = 10;

/** The types of events that become notices. */
const NOTICE_TYPES: readonly string[] = ["create", "join", "leave", "invite", "remove", "role", "rename", "withheld"];

/** The notice for an event; `undefined` if its type becomes none. */
function noticeOf(event: Event): Notice | undefined {
  if (!NOTICE_TYPES.includes(event.type)) return undefined;
  // Of what a blocked person did, only the messages leave a gap that a reader may wonder about.
  if (event.type === "withheld" && event.of !== "message") return undefined;
  const { type, seq, from, at, user, role, title } = event as Partial<Notice> & Pick<Event, "seq" | "from" | "at">;
  return compact<Notice>({ kind: "notice", id: `#${seq}`, type, seq, from, at, user, role, title } as Notice);
}

/** The messages of a list, whether it reaches back to the first event of the log, and the last event that it includes. */
export interface NoticeRange {
  readonly messages: readonly StoredMessage[];
  readonly beginning: boolean;
  readonly cursor: Seq;
}

export class Notices {
  /** For each event that was read, by its seq: the notice, or `undefined` if there is none to show. */
  #noticeBySeq = new Map<Seq, Notice | undefined>();
  /** The load in progress. */
  #load: object | undefined;
  /** The oldest message of the list at the last call of `forgetBefore`. */
  #oldestSeq: Seq | undefined;

  addEvent(event: Event): void {
    this.#noticeBySeq.set(event.seq, noticeOf(event));
  }

  /** Forgets events before the list's first message; they are read again when the messages there are loaded. */
  forgetBefore(oldest: Seq): void {
    if (oldest === this.#oldestSeq) return;
    this.#oldestSeq = oldest;
    for (const seq of this.#noticeBySeq.keys()) if (seq < oldest) this.#noticeBySeq.delete(seq);
  }

  clear(): void {
    this.#noticeBySeq.clear();
    this.#load = undefined;
  }

  /** Merges the notices into the messages. `beginning`: the list reaches back to the first event of the log. */
  mergeInto<T extends { seq?: Seq }>(messages: readonly T[], beginning: boolean): (T | Notice)[] {
    const oldest = beginning ? 0 : (messages.find(({ seq }) => seq !== undefined)?.seq ?? Infinity);
    const notices = [...this.#noticeBySeq.values()].filter((notice) => notice && notice.seq > oldest) as Notice[];
    return [...messages, ...notices].sort((a, b) => (a.seq ?? Infinity) - (b.seq ?? Infinity) || 0);
  }

  /** Reads the unknown events of the list, which may change meanwhile. Returns whether there were any. */
  async load(
    list: () => NoticeRange | undefined,
    log: { readLog(after: Seq, limit: number): Promise<LogBody> },
  ): Promise<boolean> {
    if (this.#load) return false;
    const load = (this.#load = {});
    let found = false;
    try {
      for (let pages = 0; pages < MAX_PAGES_PER_LOAD; pages++) {
        const range = list();
        const last = range && this.#lastSeqNotLoaded(range);
        if (last === undefined) break;
        const after = Math.max(0, last - PAGE_SIZE);
        const { events } = await log.readLog(after, last - after);
        // What was read before `clear` may be out of date.
        if (this.#load !== load) return false;
        for (let seq = after + 1; seq <= last; seq++)
          if (!this.#noticeBySeq.has(seq)) this.#noticeBySeq.set(seq, undefined);
        for (const event of events) this.addEvent(event);
        found = true;
      }
    } finally {
      if (this.#load === load) this.#load = undefined;
    }
    return found;
  }

  /** The latest event in the range of the list that was not read yet. */
  #lastSeqNotLoaded({ messages, beginning, cursor }: NoticeRange): Seq | undefined {
    let next = cursor + 1;
    for (let n = messages.length - 1; n >= (beginning ? -1 : 0); n--) {
      const seq = messages[n]?.seq ?? 0;
      for (let between = next - 1; between > seq; between--) if (!this.#noticeBySeq.has(between)) return between;
      next = seq;
    }
    return undefined;
  }
}
