import { ChatError } from "./error.js";
import type { Event, Member, MembersBody, Role, Seq, UserId } from "./protocol.js";
import { Store, type StoreHooks } from "./store.js";

/** How many members one request for a page asks for, and how many pages are loaded before the app asks for more. */
const PAGE_SIZE = 200;
const MAX_INITIAL_PAGES = 5;

type MemberCursors = { read: Seq; received: Seq };

export interface MembersOwner {
  readonly online: boolean;
  readMembers(fields: { after?: UserId; limit: number }): Promise<MembersBody>;
  report(error: unknown): void;
}

type State = { is: "closed" } | { is: "loading"; request: object } | { is: "loaded" };

/**
 * The members of a conversation, loaded for the first subscriber. Events and signals keep roles and cursors up to date; the list
 * is loaded again only after the connection was lost.
 */
export class Members extends Store<readonly Member[]> {
  #members: Map<UserId, Member>;
  #owner: MembersOwner;
  #state: State = { is: "closed" };
  /** Changes since pages were requested; they are applied again to the pages, which may be older. */
  #changesSinceRequest: (() => void)[] = [];
  /** The last member of the last page; `undefined` if there are no more pages. */
  #lastLoadedUser: UserId | undefined;
  #pageRequest: Promise<boolean> | undefined;
  /** The list that replaces this one, if both belong to one conversation with two names. */
  #mergedInto: Members | undefined;

  constructor(owner: MembersOwner, hooks: StoreHooks = {}) {
    const members = new Map<UserId, Member>();
    const onSubscribe = () => {
      if (this.#state.is === "closed") this.refresh();
      hooks.onSubscribe?.();
    };
    super(() => [...members.values()].sort((a, b) => (a.user < b.user ? -1 : 1)), { ...hooks, onSubscribe });
    this.#members = members;
    this.#owner = owner;
  }

  get isLoaded(): boolean {
    return this.#state.is === "loaded";
  }

  /** Whether the list has all members of the conversation. */
  get complete(): boolean {
    return this.#mergedInto?.complete ?? (this.#state.is === "loaded" && this.#lastLoadedUser === undefined);
  }

  /** Loads the next page. Returns whether that added members. */
  loadMore(): Promise<boolean> {
    if (this.#mergedInto) return this.#mergedInto.loadMore();
    if (this.#state.is !== "loaded" || this.#lastLoadedUser === undefined) return Promise.resolve(false);
    this.#pageRequest ??= this.#loadNextPage().finally(() => (this.#pageRequest = undefined));
    return this.#pageRequest;
  }

  override follow(target: Members): void {
    this.#mergedInto = target;
    super.follow(target);
  }

  /** Loads the list again, if it has a subscriber. */
  refresh(): void {
    if (!this.isSubscribed || !this.#owner.online) return;
    const request = {};
    this.#state = { is: "loading", request };
    void this.#loadList(request);
  }

  /** Handles a lost connection: requested pages will not arrive. */
  onOffline(): void {
    if (this.#state.is === "loading") this.#state = { is: "closed" };
  }

  close(): void {
    this.#state = { is: "closed" };
    this.#members.clear();
    this.#lastLoadedUser = undefined;
    this.invalidate();
  }

  applyEvent(event: Event): void {
    this.#changeList(() => this.#changeMembers(event));
  }

  /** Moves a member's cursors forward; they never go back. */
  onCursor(user: UserId, { read = 0, received = 0 }: Partial<MemberCursors>): void {
    this.#changeList(() => {
      const member = this.#members.get(user);
      if (member && (read > member.read || received > member.received)) this.#putMember(user, { read, received });
    });
  }

  /** Changes the list. If a page is requested, makes the change again afterwards, because the page may be older. */
  #changeList(act: () => void): void {
    if (this.#state.is === "loading") this.#changesSinceRequest.push(act);
    if (this.#state.is !== "closed") act();
  }

  #changeMembers(event: Event): void {
    const { seq } = event;
    switch (event.type) {
      case "join":
        return this.#putMember(event.from, { role: event.role ?? "member", read: seq, received: seq });
      case "invite":
        return this.#putMember(event.user, { role: event.role, read: seq, received: seq });
      case "role":
        if (this.#members.has(event.user)) this.#putMember(event.user, { role: event.role });
        return;
      case "leave":
        return this.#removeMember(event.from);
      case "remove":
        return this.#removeMember(event.user);
    }
  }

  #putMember(user: UserId, { role, read = 0, received = 0 }: { role?: Role } & Partial<MemberCursors>): void {
    const before = this.#members.get(user);
    this.#members.set(user, {
      user,
      role: role ?? before?.role ?? "member",
      read: Math.max(read, before?.read ?? 0),
      received: Math.max(received, before?.received ?? 0),
    });
    this.invalidate();
  }

  #removeMember(user: UserId): void {
    this.#members.delete(user);
    this.invalidate();
  }

  async #loadList(request: object): Promise<void> {
    const isCurrentRequest = () => this.#state.is === "loading" && this.#state.request === request;
    const changesMeanwhile: (() => void)[] = (this.#changesSinceRequest = []);
    try {
      const allMembers: Member[] = [];
      let after: UserId | undefined;
      for (let pages = 0; pages < MAX_INITIAL_PAGES && (pages === 0 || after !== undefined); pages++) {
        const page = await this.#owner.readMembers({ ...(after !== undefined && { after }), limit: PAGE_SIZE });
        if (!isCurrentRequest()) return;
        allMembers.push(...page.members);
        after = page.more ? page.members.at(-1)?.user : undefined;
      }
      this.#members.clear();
      for (const member of allMembers) this.#members.set(member.user, member);
      this.#lastLoadedUser = after;
      this.#state = { is: "loaded" };
      for (const act of changesMeanwhile) act();
      this.invalidate();
    } catch (error) {
      if (!isCurrentRequest()) return;
      this.#state = { is: "closed" };
      // Errors of the server need no report: the list stays incomplete, and is loaded again with the next connection.
      if (!(error instanceof ChatError)) this.#owner.report(error);
    }
  }

  async #loadNextPage(): Promise<boolean> {
    const state = this.#state;
    const page = await this.#owner.readMembers({ after: this.#lastLoadedUser as UserId, limit: PAGE_SIZE });
    if (this.#state !== state) return false;
    const before = this.#members.size;
    for (const { user, ...member } of page.members) this.#putMember(user, member);
    this.#lastLoadedUser = page.more ? page.members.at(-1)?.user : undefined;
    this.invalidate();
    return this.#members.size > before;
  }
}
