// The list of the user's conversations, loaded page by page, and the number of unread messages.

import { Alarm, type Clock } from "./clock.js";
import type { Directory } from "./directory.js";
import { ChatError } from "./error.js";
import { handled } from "./handled.js";
import type { Command, ConversationsBody, Summary, Welcome } from "./protocol.js";
import type { Room } from "./room.js";
import type { Scheduler } from "./scheduler.js";
import { Store, Value } from "./store.js";
import type { Known } from "./summary.js";
import type { ChatLimits, CommandOptions, ConversationInfo, UnreadTotal } from "./types.js";

/** How many conversations one request for a page asks for. */
const PAGE = 50;
/** The most conversations of a page, if the server has no limit for it. */
const PAGE_MOST = 200;
/** The first and the longest delay, in milliseconds, if look-ups in a row do not find all summaries; doubled each time. */
const LOOKUP_RETRY = 500;
const LOOK_AGAIN_MOST = 60_000;
/** The most conversations that `welcome.unread` counts. */
const COUNTED = 200;

export interface InboxOwner {
  readonly clock: Clock;
  readonly rooms: Directory;
  readonly scheduler: Scheduler;
  readonly online: boolean;
  readonly limits: ChatLimits | undefined;
  call<T>(command: Command, options?: CommandOptions): Promise<T>;
  /** Handles that the whole list of conversations was loaded. */
  onComplete(): void;
  /** Handles that a look-up has loaded summaries. */
  onFound(): void;
  report(error: unknown): void;
}

type WelcomeWithUnread = Welcome & { unread?: UnreadTotal };

export class Inbox {
  readonly conversations: Store<readonly ConversationInfo[]>;
  readonly hasMore = new Value(false);
  readonly unread: Store<UnreadTotal>;
  #owner: InboxOwner;
  /** The conversation after which the next page begins; `null` if there is no further page. */
  #next: string | null = null;
  /** The number of the connection, because pages of an earlier connection must be ignored. */
  #connection = 0;
  #more: Promise<boolean> | undefined;
  /** Whether to load all pages, because a listener wants every message. */
  #wantsAll = false;
  /** How many summaries have arrived in pages since the connection began. */
  #read = 0;
  #looking = false;
  #lookAgain = false;
  #nextLook: Alarm;
  /** How many look-ups in a row left a conversation without a summary. */
  #fruitless = 0;
  /** The part of `welcome.unread` that is in conversations without a loaded summary. */
  #elsewhere: UnreadTotal = { messages: 0, conversations: 0, more: false };

  constructor(owner: InboxOwner) {
    this.#owner = owner;
    this.#nextLook = new Alarm(owner.clock, () => this.lookUp());
    this.conversations = new Store<readonly ConversationInfo[]>(() =>
      this.sorted().map((room) => room.info.getSnapshot() as ConversationInfo),
    );
    this.unread = new Store(() => this.#count());
  }

  /** The conversations with a summary, latest activity first. */
  sorted(): Room[] {
    const at = (room: Room) => (room.summary as Known).at;
    const rooms = [...this.#owner.rooms].filter((room) => room.summary);
    return rooms.sort((a, b) => (at(a) < at(b) ? 1 : at(a) > at(b) ? -1 : 0));
  }

  changed(): void {
    this.conversations.changed();
    this.unread.changed();
  }

  onWelcome(frame: WelcomeWithUnread): void {
    this.#connection++;
    this.#more = undefined;
    this.#read = 0;
    const unread = { messages: 0, conversations: 0, more: frame.more, ...frame.unread };
    for (const { unread: messages } of frame.conversations) {
      if (!messages || !frame.unread) continue;
      unread.messages -= messages;
      unread.conversations--;
    }
    this.#elsewhere = unread;
    this.#next = this.#onPage(frame, true);
    this.#resetMore();
  }

  onLost(): void {
    this.#looking = false;
    this.#fruitless = 0;
    this.#nextLook.clear();
  }

  /** Loads pages until all known conversations are up to date, and the list is as long as before the connection was lost. */
  async catchUp(before: number): Promise<void> {
    const connection = this.#connection;
    const enough = () =>
      !this.#wantsAll && ![...this.#owner.rooms].some((room) => room.behind) && this.sorted().length >= before;
    try {
      while (this.#next !== null && !enough()) {
        await this.#extend(true);
        if (connection !== this.#connection) return;
      }
    } catch (error) {
      // The next connection starts the loading again.
      return this.#report(error);
    }
    for (const room of this.#owner.rooms) room.onAbsent();
    if (this.#next === null) this.#owner.onComplete();
  }

  /** Loads all pages, now and with each later connection. */
  readAll(): void {
    this.#wantsAll = true;
    if (this.#owner.online) void this.catchUp(0);
  }

  /** Loads the next page. Returns whether that added conversations. */
  loadMore(options: CommandOptions = {}): Promise<boolean> {
    return handled(this.#loadMore(options));
  }

  /** Looks up the summaries of conversations that are only known from events. */
  lookUp(): void {
    this.#lookAgain = true;
    if (!this.#looking && !this.#nextLook.isSet && this.#owner.online) void this.#lookUp();
  }

  /** Repeats the look-up that was interrupted when the connection was lost. */
  resume(): void {
    if (this.#lookAgain) this.lookUp();
  }

  async #loadMore(options: CommandOptions): Promise<boolean> {
    const before = this.sorted().length;
    await this.#extend(false, options);
    return this.sorted().length > before;
  }

  async #lookUp(): Promise<void> {
    const connection = this.#connection;
    this.#looking = true;
    try {
      this.#lookAgain = false;
      let before: string | null = null;
      do {
        const page: ConversationsBody = await this.#background(PAGE, before);
        if (connection !== this.#connection) return;
        before = this.#onPage(page, false);
      } while (before !== null && [...this.#owner.rooms].some((room) => room.unknown));
      this.#looking = false;
      this.#afterLook();
    } catch (error) {
      this.#looking = false;
      this.#lookAgain = true;
      this.#report(error);
    }
  }

  /** Looks up again if conversations without a summary appeared during the last look-up; the delay grows each time. */
  #afterLook(): void {
    this.#owner.onFound();
    if (!this.#lookAgain) return void (this.#fruitless = 0);
    const wait = this.#fruitless && Math.min(LOOK_AGAIN_MOST, LOOKUP_RETRY * 2 ** (this.#fruitless - 1));
    this.#fruitless++;
    this.#nextLook.set(wait);
  }

  /** Loads the page after the end of the list. */
  #extend(background: boolean, options: CommandOptions = {}): Promise<boolean> {
    if (this.#next === null) return Promise.resolve(false);
    this.#more ??= this.#page(background, options);
    return this.#more;
  }

  async #page(background: boolean, options: CommandOptions): Promise<boolean> {
    const connection = this.#connection;
    const before = this.#next as string;
    try {
      const page = background
        ? await this.#background(this.#owner.limits?.page ?? PAGE_MOST, before)
        : await this.#owner.call<ConversationsBody>({ type: "conversations", limit: PAGE, before }, options);
      if (connection === this.#connection) this.#next = this.#onPage(page, false);
      return true;
    } finally {
      if (connection === this.#connection) {
        this.#more = undefined;
        this.#resetMore();
      }
    }
  }

  #background(limit: number, before: string | null): Promise<ConversationsBody> {
    const command: Command = { type: "conversations", limit, ...(before !== null && { before }) };
    return this.#owner.scheduler.request(
      () => command,
      () => 0.5,
    );
  }

  #onPage(page: ConversationsBody, welcome: boolean): string | null {
    for (const summary of page.conversations) {
      const room = this.#owner.rooms.of(summary.conversation);
      if (!welcome && !room.summary) this.#onFound(summary, room);
      room.onSummary(summary, welcome);
    }
    this.#read += page.conversations.length;
    return (page.more && page.conversations.at(-1)?.conversation) || null;
  }

  /** Subtracts the unread messages of a newly loaded conversation from `#elsewhere`, except those since `welcome`. */
  #onFound(summary: Summary, room: Room): void {
    const unread = summary.unread - room.waiting;
    if (unread <= 0 || this.#read >= COUNTED) return;
    const { messages, conversations, more } = this.#elsewhere;
    this.#elsewhere = { messages: Math.max(0, messages - unread), conversations: Math.max(0, conversations - 1), more };
  }

  #count(): UnreadTotal {
    const known = this.sorted().filter((room) => room.summary?.unread);
    const all = this.#next === null;
    const elsewhere = all ? { messages: 0, conversations: 0 } : this.#elsewhere;
    return {
      messages: known.reduce((sum, room) => sum + (room.summary as Known).unread, elsewhere.messages),
      conversations: known.length + elsewhere.conversations,
      more: !all && this.#elsewhere.more,
    };
  }

  #resetMore(): void {
    this.hasMore.set(this.#next !== null);
    this.unread.changed();
  }

  #report(error: unknown): void {
    if (!(error instanceof ChatError) || error.code !== "offline") this.#owner.report(error);
  }
}
