import type { MembersBody } from "./protocol.js";
import type { Command, Event, Member, Role, Seq, UserId } from "./protocol.js";
import { Store } from "./store.js";
import { compact } from "./timeline.js";

/** Members of a page, and most pages that are read: a longer list is no list to look at. */
const PAGE = 200;
const PAGES = 10;

interface Asks {
  readonly online: boolean;
  request<T>(command: Command): Promise<T>;
  failed(error: unknown): void;
}

/** The members of a conversation, from when somebody looks at them. */
export class Members extends Store<readonly Member[]> {
  #members: Map<UserId, Member>;
  #asks: Asks;
  #conversation: () => string;
  #loading = false;
  #loaded = false;
  /** Something has changed while pages were under way, which may or may not have it. */
  #dirty = false;

  constructor(asks: Asks, conversation: () => string) {
    const members = new Map<UserId, Member>();
    super(
      () => [...members.values()].sort((a, b) => (a.user < b.user ? -1 : 1)),
      () => this.#loaded || this.refresh(),
    );
    this.#members = members;
    this.#asks = asks;
    this.#conversation = conversation;
  }

  /** Reads them anew, if somebody looks. */
  refresh(): void {
    if (this.subscribed) void this.#load();
  }

  apply(event: Event): void {
    if (event.type === "message") return;
    this.#dirty = true;
    if (!this.#loaded) return;
    if (event.type === "join")
      this.#put(event.from, { role: event.role ?? "member", read: event.seq, received: event.seq });
    else if (event.type === "invite") this.#put(event.user, { role: event.role, read: event.seq, received: event.seq });
    else if (event.type === "role") this.#put(event.user, { role: event.role });
    else if (event.type === "leave" || event.type === "remove") {
      this.#members.delete(event.type === "leave" ? event.from : event.user);
      this.changed();
    }
  }

  /** A cursor has moved; cursors do not go back. */
  moved(user: UserId, upto: { read?: Seq; received?: Seq }): void {
    this.#dirty = true;
    const member = this.#members.get(user);
    if (!member) return;
    const read = Math.max(member.read, upto.read ?? 0);
    const received = Math.max(member.received, upto.received ?? 0);
    this.#put(user, { read, received });
  }

  #put(user: UserId, change: { role?: Role; read?: Seq; received?: Seq }): void {
    const before = this.#members.get(user) ?? { user, role: "member", read: 0, received: 0 };
    this.#members.set(user, { ...before, ...change });
    this.changed();
  }

  async #load(): Promise<void> {
    if (this.#loading || !this.#asks.online) return;
    this.#loading = true;
    this.#dirty = false;
    try {
      const all: Member[] = [];
      for (let pages = 0, more = true; more && pages < PAGES; pages++) {
        const command = {
          type: "members" as const,
          conversation: this.#conversation(),
          after: all.at(-1)?.user,
          limit: PAGE,
        };
        const page = await this.#asks.request<MembersBody>(compact(command));
        all.push(...page.members);
        more = page.more;
      }
      this.#loaded = true;
      this.#members.clear();
      for (const member of all) this.#members.set(member.user, member);
      this.changed();
    } catch (error) {
      // Told when the conversation itself is loaded; without a connection the next one asks again.
      void error;
    } finally {
      this.#loading = false;
    }
    if (this.#dirty) void this.#load();
  }
}
