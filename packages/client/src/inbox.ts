// The list of the user's conversations, loaded page by page, and the number of unread messages.

import { Alarm, type Clock } from "./clock.js";
import type { RoomDirectory } from "./directory.js";
import { ChatError } from "./error.js";
import { ignoreUnhandledRejection } from "./rejection.js";
import type { Command, ConversationsBody, Summary, Welcome } from "./protocol.js";
import type { Room } from "./room.js";
import type { Scheduler } from "./scheduler.js";
import { Store, Value } from "./store.js";
import type { RoomSummary } from "./summary.js";
import type { ChatLimits, CommandOptions, ConversationInfo, UnreadTotal } from "./types.js";

/** How many conversations one request for a page asks for. */
const PAGE_SIZE = 50;
/** The most conversations of a page, if the server has no limit for it. */
const DEFAULT_MAX_PAGE_SIZE = 200;
/** The first and the longest delay, in milliseconds, if look-ups in a row do not find all summaries; doubled each time. */
const INITIAL_LOOKUP_DELAY_MS = 500;
const MAX_LOOKUP_DELAY_MS = 60_000;
/** The most conversations that `welcome.unread` counts. */
const MAX_COUNTED_CONVERSATIONS = 200;

export interface InboxOwner {
  readonly clock: Clock;
  readonly rooms: RoomDirectory;
  readonly scheduler: Scheduler;
  readonly online: boolean;
  readonly limits: ChatLimits | undefined;
  call<T>(command: Command, options?: CommandOptions): Promise<T>;
  /** Handles that the whole list of conversations was loaded. */
  onInboxLoaded(): void;
  /** Handles that a look-up has loaded summaries. */
  onSummariesLoaded(): void;
  report(error: unknown): void;
}

type WelcomeWithUnread = Welcome & { unread?: UnreadTotal };

export class Inbox {
  readonly conversations: Store<readonly ConversationInfo[]>;
  readonly hasMore = new Value(false);
  readonly unread: Store<UnreadTotal>;
  #owner: InboxOwner;
  /** The conversation after which the next page begins; `null` if there is no further page. */
  #nextPageAfter: string | null = null;
  /** The number of the connection, because pages of an earlier connection must be ignored. */
  #connectionNumber = 0;
  #pageRequest: Promise<boolean> | undefined;
  /** Whether to load all pages, because a listener wants every message. */
  #loadsAllPages = false;
  /** How many summaries have arrived in pages since the connection began. */
  #receivedSummaries = 0;
  #isLookingUp = false;
  #lookUpIsWanted = false;
  #lookUpAlarm: Alarm;
  /** How many look-ups in a row left a conversation without a summary. */
  #incompleteLookUps = 0;
  /** The part of `welcome.unread` that is in conversations without a loaded summary. */
  #unloadedUnread: UnreadTotal = { messages: 0, conversations: 0, more: false };

  constructor(owner: InboxOwner) {
    this.#owner = owner;
    this.#lookUpAlarm = new Alarm(owner.clock, () => this.lookUp());
    this.conversations = new Store<readonly ConversationInfo[]>(() =>
      this.sorted().map((room) => room.info.getSnapshot() as ConversationInfo),
    );
    this.unread = new Store(() => this.#computeUnread());
  }

  /** The conversations with a summary, latest activity first. */
  sorted(): Room[] {
    const lastActivity = (room: Room) => (room.summary as RoomSummary).at;
    const rooms = [...this.#owner.rooms].filter((room) => room.summary);
    return rooms.sort((a, b) => (lastActivity(a) < lastActivity(b) ? 1 : lastActivity(a) > lastActivity(b) ? -1 : 0));
  }

  invalidate(): void {
    this.conversations.invalidate();
    this.unread.invalidate();
  }

  onWelcome(frame: WelcomeWithUnread): void {
    this.#connectionNumber++;
    this.#pageRequest = undefined;
    this.#receivedSummaries = 0;
    const unread = { messages: 0, conversations: 0, more: frame.more, ...frame.unread };
    for (const { unread: messages } of frame.conversations) {
      if (!messages || !frame.unread) continue;
      unread.messages -= messages;
      unread.conversations--;
    }
    this.#unloadedUnread = unread;
    this.#nextPageAfter = this.#onPage(frame, true);
    this.#updateHasMore();
  }

  onOffline(): void {
    this.#isLookingUp = false;
    this.#incompleteLookUps = 0;
    this.#lookUpAlarm.clear();
  }

  /** Loads pages until all known conversations are up to date, and the list is as long as before the connection was lost. */
  async catchUp(before: number): Promise<void> {
    const connection = this.#connectionNumber;
    const isCaughtUp = () =>
      !this.#loadsAllPages &&
      ![...this.#owner.rooms].some((room) => room.needsSummary) &&
      this.sorted().length >= before;
    try {
      while (this.#nextPageAfter !== null && !isCaughtUp()) {
        await this.#loadNextPage(true);
        if (connection !== this.#connectionNumber) return;
      }
    } catch (error) {
      // The next connection starts the loading again.
      return this.#reportUnlessOffline(error);
    }
    for (const room of this.#owner.rooms) room.onNotInInbox();
    if (this.#nextPageAfter === null) this.#owner.onInboxLoaded();
  }

  /** Loads all pages, now and with each later connection. */
  loadAll(): void {
    this.#loadsAllPages = true;
    if (this.#owner.online) void this.catchUp(0);
  }

  /** Loads the next page. Returns whether that added conversations. */
  loadMore(options: CommandOptions = {}): Promise<boolean> {
    return ignoreUnhandledRejection(this.#loadMore(options));
  }

  /** Looks up the summaries of conversations that are only known from events. */
  lookUp(): void {
    this.#lookUpIsWanted = true;
    if (!this.#isLookingUp && !this.#lookUpAlarm.isSet && this.#owner.online) void this.#requestSummaries();
  }

  /** Repeats the look-up that was interrupted when the connection was lost. */
  resumeLookUp(): void {
    if (this.#lookUpIsWanted) this.lookUp();
  }

  async #loadMore(options: CommandOptions): Promise<boolean> {
    const lengthBefore = this.sorted().length;
    await this.#loadNextPage(false, options);
    return this.sorted().length > lengthBefore;
  }

  async #requestSummaries(): Promise<void> {
    const connection = this.#connectionNumber;
    this.#isLookingUp = true;
    try {
      this.#lookUpIsWanted = false;
      let before: string | null = null;
      do {
        const page: ConversationsBody = await this.#requestInBackground(PAGE_SIZE, before);
        if (connection !== this.#connectionNumber) return;
        before = this.#onPage(page, false);
      } while (before !== null && [...this.#owner.rooms].some((room) => room.lacksSummary));
      this.#isLookingUp = false;
      this.#onLookUpDone();
    } catch (error) {
      this.#isLookingUp = false;
      this.#lookUpIsWanted = true;
      this.#reportUnlessOffline(error);
    }
  }

  /** Looks up again if conversations without a summary appeared during the last look-up; the delay grows each time. */
  #onLookUpDone(): void {
    this.#owner.onSummariesLoaded();
    if (!this.#lookUpIsWanted) return void (this.#incompleteLookUps = 0);
    const delayMs =
      this.#incompleteLookUps &&
      Math.min(MAX_LOOKUP_DELAY_MS, INITIAL_LOOKUP_DELAY_MS * 2 ** (this.#incompleteLookUps - 1));
    this.#incompleteLookUps++;
    this.#lookUpAlarm.set(delayMs);
  }

  /** Loads the page after the end of the list. */
  #loadNextPage(background: boolean, options: CommandOptions = {}): Promise<boolean> {
    if (this.#nextPageAfter === null) return Promise.resolve(false);
    this.#pageRequest ??= this.#requestNextPage(background, options);
    return this.#pageRequest;
  }

  async #requestNextPage(background: boolean, options: CommandOptions): Promise<boolean> {
    const connection = this.#connectionNumber;
    const before = this.#nextPageAfter as string;
    try {
      const page = background
        ? await this.#requestInBackground(this.#owner.limits?.page ?? DEFAULT_MAX_PAGE_SIZE, before)
        : await this.#owner.call<ConversationsBody>({ type: "conversations", limit: PAGE_SIZE, before }, options);
      if (connection === this.#connectionNumber) this.#nextPageAfter = this.#onPage(page, false);
      return true;
    } finally {
      if (connection === this.#connectionNumber) {
        this.#pageRequest = undefined;
        this.#updateHasMore();
      }
    }
  }

  #requestInBackground(limit: number, before: string | null): Promise<ConversationsBody> {
    const command: Command = { type: "conversations", limit, ...(before !== null && { before }) };
    return this.#owner.scheduler.request(
      () => command,
      () => 0.5,
    );
  }

  #onPage(page: ConversationsBody, welcome: boolean): string | null {
    for (const summary of page.conversations) {
      const room = this.#owner.rooms.getOrCreate(summary.conversation);
      if (!welcome && !room.summary) this.#onSummaryLoaded(summary, room);
      room.onSummary(summary, welcome);
    }
    this.#receivedSummaries += page.conversations.length;
    return (page.more && page.conversations.at(-1)?.conversation) || null;
  }

  /** Subtracts the unread messages of a newly loaded conversation from `#unloadedUnread`, except those since `welcome`. */
  #onSummaryLoaded(summary: Summary, room: Room): void {
    const unread = summary.unread - room.waitingCount;
    if (unread <= 0 || this.#receivedSummaries >= MAX_COUNTED_CONVERSATIONS) return;
    const { messages, conversations, more } = this.#unloadedUnread;
    this.#unloadedUnread = {
      messages: Math.max(0, messages - unread),
      conversations: Math.max(0, conversations - 1),
      more,
    };
  }

  #computeUnread(): UnreadTotal {
    const unreadRooms = this.sorted().filter((room) => room.summary?.unread);
    const isComplete = this.#nextPageAfter === null;
    const unreadOfUnloaded = isComplete ? { messages: 0, conversations: 0 } : this.#unloadedUnread;
    return {
      messages: unreadRooms.reduce(
        (sum, room) => sum + (room.summary as RoomSummary).unread,
        unreadOfUnloaded.messages,
      ),
      conversations: unreadRooms.length + unreadOfUnloaded.conversations,
      more: !isComplete && this.#unloadedUnread.more,
    };
  }

  #updateHasMore(): void {
    this.hasMore.set(this.#nextPageAfter !== null);
    this.unread.invalidate();
  }

  #reportUnlessOffline(error: unknown): void {
    if (!(error instanceof ChatError) || error.code !== "offline") this.#owner.report(error);
  }
}
