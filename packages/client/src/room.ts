// One conversation: its place in the log, the list of its messages, how it stands.

import { ChatError } from "./error.js";
import { handled } from "./handled.js";
import { Members } from "./members.js";
import type { Entry, Outbox } from "./outbox.js";
import type { HistoryBody, LogBody, StoredBody } from "./protocol.js";
import type { Command, Event, Role, Seq, Summary, UserId } from "./protocol.js";
import { Emitter, Store, Value } from "./store.js";
import { after, describe, isLeaving } from "./summary.js";
import { compact, eventFromWire, fromWire, idOf, Timeline } from "./timeline.js";
import type { Conversation, Draft, ConversationInfo, ChatMessage, Outgoing, ConversationEvents } from "./types.js";
import { Typing } from "./typing.js";

/** Messages of a page of history. */
const PAGE = 50;
/** Messages that a list keeps when new ones come; what was loaded on top by `loadOlder` stays. */
const KEPT = 1_000;
/** Events of a page of the log. */
const LOG_PAGE = 200;
/** Milliseconds to wait when the server could not answer and does not say how long. */
const PAUSE = 2_000;
/** Milliseconds between two tellings of how far one has read. */
const READ_EVERY = 500;

type AboutRoom = Extract<Command, { conversation: string }>;
type Fields<T> = Omit<Extract<AboutRoom, { type: T }>, "type" | "conversation">;

export interface Host {
  readonly use: () => void;
  readonly me: UserId | undefined;
  readonly online: boolean;
  /** Says a command on this connection; fails with it. */
  request<T>(command: Command): Promise<T>;
  /** Says a command that may be repeated, on whatever connection there is in time. */
  call<T>(command: Command): Promise<T>;
  readonly outbox: Outbox;
  /** Whether somebody wants every message of all conversations. */
  readonly follows: boolean;
  /** A conversation is there whose summary is not known. */
  learn(): void;
  /** A conversation has changed in the list of them. */
  listed(): void;
  heard(message: ChatMessage, room: Room): void;
  /** Messages of others have arrived. */
  arrived(room: Room): void;
  failed(error: unknown): void;
}

/** The id of the conversation that `target` means to `me`. */
export function canonical(target: string, me: UserId | undefined): string {
  if (!me || target[0] !== "@" || target.includes(":")) return target;
  const other = target.slice(1);
  return me < other ? `@${me}:${other}` : `@${other}:${me}`;
}

export class Room implements Conversation {
  readonly messages: Store<readonly ChatMessage[]>;
  readonly info: Store<ConversationInfo | undefined>;
  readonly state = new Value<"loading" | "ready" | "missing">("loading");
  readonly members: Members;
  readonly typing: Typing;
  #host: Host;
  #target: string;
  #events = new Emitter<ConversationEvents>();
  /** One has left it. */
  #left = false;
  /** Every event up to here was applied, once; `undefined` while that is to be found out. */
  #cursor: Seq | undefined;
  /** Events that came before those in front of them, and whether they are answers to one's own commands. */
  #ahead = new Map<Seq, { event: Event; own: boolean }>();
  #filling = false;
  #timeline: Timeline | undefined;
  #opened = false;
  #loading = false;
  /** The list is to be made anew; the old one is shown meanwhile. */
  #stale = false;
  /** Events applied while a page is under way, which may or may not have them; for each such page. */
  #meanwhile = new Set<Event[]>();
  #older: Promise<boolean> | undefined;
  #keep = KEPT;
  #outgoing = new Map<string, Entry>();
  #summary: Summary | undefined;
  /** What was told last, and when. */
  #readTold = 0;
  #readTimer: ReturnType<typeof setTimeout> | undefined;
  /** Events up to here are known from a page of the inbox, and may come live all the same: the page overtook them. */
  #overtaken: Seq = 0;
  /** How far one has read, though the server may not know yet. */
  #read: Seq = 0;

  constructor(target: string, host: Host) {
    this.#target = target;
    this.#host = host;
    this.messages = new Store(
      () => this.#list(),
      () => this.open(),
    );
    this.info = new Store(() => this.#summary && describe(this.#summary, host.me, this.#timeline));
    this.typing = new Typing(() => host.request(this.#about("typing", {})).catch(() => {}));
    this.members = new Members(host, () => this.id);
    for (const store of [this.messages, this.info, this.state, this.typing, this.members]) store.onUse = host.use;
  }

  get id(): string {
    return canonical(this.#target, this.#host.me);
  }

  get cursor(): Seq | undefined {
    return this.#cursor;
  }

  /** Whether events must not be missed. */
  get followed(): boolean {
    return this.#opened || this.#host.follows;
  }

  get summary(): Summary | undefined {
    return this.#summary;
  }

  /** Whether the inbox should have it, and nobody has told yet how it stands. */
  get unknown(): boolean {
    return !this.#summary && !this.#left && this.#cursor !== 0 && this.state.getSnapshot() !== "missing";
  }

  on<K extends keyof ConversationEvents>(event: K, listener: (value: ConversationEvents[K]) => void): () => void {
    this.open();
    this.#host.use();
    return this.#events.on(event, listener);
  }

  open(): void {
    if (this.#opened) return;
    this.#opened = true;
    void this.#load();
  }

  send(message: string | Draft): Outgoing {
    return this.#host.outbox.submit(this.id, typeof message === "string" ? { text: message } : message);
  }

  outgoing(key: string): Outgoing | undefined {
    return this.#outgoing.get(key);
  }

  edit(target: Seq, message: string | Draft): Promise<void> {
    const { text, data } = typeof message === "string" ? { text: message, data: undefined } : message;
    return this.#say("edit", compact({ target, text, data: data as Record<string, unknown> | undefined }));
  }

  deleteMessage(target: Seq): Promise<void> {
    return this.#say("delete", { target });
  }

  react(target: Seq, emoji: string, on = true): Promise<void> {
    return this.#say("react", { target, emoji, on });
  }

  join(): Promise<void> {
    return this.#say("join", {});
  }

  leave(): Promise<void> {
    return this.#say("leave", {});
  }

  invite(user: UserId, role: Role = "member"): Promise<void> {
    return this.#say("invite", { user, role });
  }

  removeMember(user: UserId): Promise<void> {
    return this.#say("remove", { user });
  }

  setRole(user: UserId, role: Role): Promise<void> {
    return this.#say("role", { user, role });
  }

  rename(title: string): Promise<void> {
    return this.#say("rename", { title });
  }

  markRead(upto = Infinity): void {
    upto = Math.min(upto, this.#cursor ?? 0);
    if (upto <= this.#read || !this.#summary) return;
    this.#readUpto(upto);
    this.#readTimer ??= setTimeout(() => this.tellRead(), Math.max(0, this.#readTold + READ_EVERY - Date.now()));
  }

  loadOlder(): Promise<boolean> {
    this.#older ??= this.#loadOlder().finally(() => (this.#older = undefined));
    return handled(this.#older);
  }

  // ---- What the server tells.

  /** How it stood when the server looked: in `welcome`, from which events go on, or later. */
  meet(summary: Summary, welcome = false): void {
    if (!welcome && summary.head < (this.#cursor ?? 0)) {
      // It looked before the last events came.
      this.#host.learn();
      return;
    }
    this.#summary = summary;
    this.#left = false;
    if (!this.followed || (this.#cursor === undefined && !this.#opened)) {
      this.#place(summary.head);
      if (!welcome) this.#overtaken = this.#cursor as Seq;
    }
    if (this.#read > summary.read) this.#readUpto(this.#read);
    this.#read = Math.max(this.#read, summary.read);
    this.#changed();
    if (this.state.getSnapshot() === "missing") void this.#load();
  }

  /** A connection has begun, and its `welcome` did not tell of this one. */
  forget(): void {
    if (this.followed) return;
    this.#summary = this.#cursor = undefined;
    this.#changed();
  }

  /** A connection has begun; `said` are the cursors that it was given, `told` whether `welcome` had the summary. */
  resume(said: Record<string, Seq> = {}, told = false): void {
    if (this.#opened && (!this.#timeline || this.#stale)) void this.#load();
    const missed = !told || (this.#summary?.head ?? 0) > (this.#cursor ?? 0);
    if (this.followed && missed && !(this.id in said)) void this.#fill();
    if (this.#read > (this.#summary?.read ?? Infinity)) this.tellRead();
    this.members.refresh();
  }

  lost(): void {
    this.#overtaken = 0;
    this.typing.clear();
    if (!this.followed) this.#ahead.clear();
  }

  /** An event, whichever way it came. `own`: it is the answer to a command, and may run ahead. */
  receive(event: Event, own = false): void {
    if (event.seq > (this.#cursor ?? 0)) this.#ahead.set(event.seq, { event, own });
    else if (event.seq <= this.#overtaken && !own) this.#tell(event);
    if (this.#cursor === undefined) {
      if (this.#opened) void this.#load();
      else this.#host.learn();
      return;
    }
    this.#drain();
    // What is missing may be on its way, behind an answer that overtook it; to have it twice does no harm.
    if (this.#ahead.size) void this.#fill();
  }

  /** The log from the cursor on is not to be had: too long, or another one. */
  async resync(): Promise<void> {
    if (this.#events.has("message") || this.#events.has("event") || this.#host.follows) {
      // Whoever listens to every message gets every message.
      if (this.#cursor !== undefined) return this.#fill();
    }
    this.#startAnew();
  }

  /** The cursor cannot be followed. */
  refused(error: ChatError): void {
    if (error.code === "not_found") this.#vanish();
    else this.#startAnew();
  }

  reads(user: UserId, upto: Seq): void {
    if (user === this.#host.me && upto > this.#read) this.#readUpto(upto);
    this.members.moved(user, { read: upto, received: upto });
  }

  /** One of the outbox came, changed, or went. */
  shows(entry: Entry, gone: boolean): void {
    if (gone) this.#outgoing.delete(entry.key);
    else this.#outgoing.set(entry.key, entry);
    this.messages.changed();
  }

  /** The server has stored it: it takes its place in the log, when the log has come to it. */
  stored(entry: Entry, body: StoredBody): void {
    const { to, time, replyTo: reply_to, ...what } = entry.what;
    const { conversation, seq, at } = body;
    if (this.#cursor !== undefined && seq <= this.#cursor) return this.shows(entry, true);
    this.messages.changed();
    const from = this.#host.me as UserId;
    this.receive(compact({ type: "message" as const, conversation, seq, from, at, ...what, reply_to }) as Event, true);
  }

  #list(): readonly ChatMessage[] {
    const me = this.#host.me ?? "";
    const messages = this.#timeline?.messages ?? [];
    for (const entry of this.#outgoing.values()) {
      const { to, time, ...what } = entry.what;
      const { state, error, stored } = entry;
      const at = stored?.at ?? new Date(time).toISOString();
      const id = idOf(me, what.key);
      if (this.#timeline?.has(id)) continue;
      messages.push(compact({ id, from: me, reactions: {}, ...what, seq: stored?.seq, at, state, error }));
    }
    return messages;
  }

  #changed(): void {
    this.messages.changed();
    this.info.changed();
    this.#host.listed();
  }

  /** A command about this conversation. */
  #about<T extends AboutRoom["type"]>(type: T, fields: Fields<T>): Command {
    return { type, conversation: this.id, ...fields } as unknown as Command;
  }

  #say<T extends AboutRoom["type"]>(type: T, fields: Fields<T>): Promise<void> {
    return handled(this.#do(this.#about(type, fields)));
  }

  async #do(command: Command): Promise<void> {
    const stored = await this.#host.call<StoredBody>(command);
    const { conversation, seq, at } = stored;
    // The answer stands in place of the event. Of a repetition the event came before, or comes with the log.
    if (!stored.duplicate) this.receive({ ...command, conversation, seq, at, from: this.#host.me } as Event, true);
  }

  /** Everything up to `known` is known from a page. What has come live in the meantime is new all the same. */
  #place(known: Seq): void {
    let first = Infinity;
    for (const [seq, { own }] of this.#ahead) if (!own) first = Math.min(first, seq);
    this.#cursor = Math.min(known, first - 1);
    this.#drain();
    if (this.#ahead.size) void this.#fill();
  }

  #drain(): void {
    for (const seq of this.#ahead.keys()) if (seq <= (this.#cursor as Seq)) this.#ahead.delete(seq);
    for (let next; (next = this.#ahead.get((this.#cursor as Seq) + 1));) {
      this.#ahead.delete(next.event.seq);
      this.#cursor = next.event.seq;
      this.#apply(next.event);
    }
    for (const entry of this.#outgoing.values()) {
      if (entry.stored && entry.stored.seq <= (this.#cursor as Seq)) this.shows(entry, true);
    }
  }

  /** An event in its turn, once. */
  #apply(event: Event): void {
    const me = this.#host.me;
    for (const events of this.#meanwhile) events.push(event);
    this.#timeline?.apply(event);
    if (this.#timeline && this.#timeline.length > this.#keep + PAGE) this.#timeline.trim(this.#keep);
    this.members.apply(event);
    if (event.type === "message") {
      this.typing.stopped(event.from);
      if (event.from === me && event.key) this.#host.outbox.seen(event, event.key);
    }
    this.#summarise(event);
    this.#changed();
    this.#tell(event);
  }

  /** Whoever listens hears of it. */
  #tell(event: Event): void {
    if (this.#opened) this.#events.emit("event", eventFromWire(event));
    if (event.type !== "message") return;
    const message = this.#timeline?.find(event.seq) ?? fromWire(event);
    if (this.#opened) this.#events.emit("message", message);
    this.#host.heard(message, this);
    if (event.from !== this.#host.me) this.#host.arrived(this);
  }

  #summarise(event: Event): void {
    this.#left = isLeaving(event, this.#host.me);
    if (this.#left) this.#summary = undefined;
    // Somebody brought one in, or wrote for the first time, or after so long that it was not among the latest.
    else if (!this.#summary) this.#host.learn();
    else this.#summary = after(this.#summary, event, this.#host.me);
  }

  #readUpto(upto: Seq): void {
    this.#read = upto;
    const s = this.#summary;
    if (!s) return;
    const unread = upto >= s.head ? 0 : this.#timeline?.unread(upto, this.#host.me as UserId);
    // Read elsewhere, up to the middle of what is not loaded.
    if (unread === undefined) this.#host.learn();
    this.#summary = { ...s, read: upto, unread: unread ?? s.unread };
    this.#changed();
  }

  tellRead(): void {
    clearTimeout(this.#readTimer);
    this.#readTimer = undefined;
    if (!this.#host.online) return;
    this.#readTold = Date.now();
    this.#host.request(this.#about("read", { upto: this.#read })).catch(() => {
      // Said again with the next connection, or it makes no difference any more.
    });
  }

  async #load(): Promise<void> {
    if (this.#loading || !this.#host.online) return;
    this.#loading = true;
    const meanwhile: Event[] = [];
    this.#meanwhile.add(meanwhile);
    try {
      const page = await this.#host.request<HistoryBody>(this.#about("history", { limit: PAGE }));
      this.#timeline = new Timeline(page);
      for (const event of meanwhile) this.#timeline.apply(event);
      if (this.#cursor === undefined) this.#place(page.head);
      this.#ready();
    } catch (error) {
      if (!(error instanceof ChatError) || error.code !== "not_found") return this.#later(error);
      // Nobody has written there yet.
      if (this.id[0] === "@") {
        this.#timeline ??= new Timeline();
        this.#cursor ??= 0;
        this.#drain();
        this.#ready();
      } else {
        this.#vanish();
      }
    } finally {
      this.#loading = false;
      this.#meanwhile.delete(meanwhile);
    }
    if (this.unknown) this.#host.learn();
  }

  #ready(): void {
    const stale = this.#stale;
    this.#stale = false;
    this.#keep = KEPT;
    this.state.set("ready");
    this.#changed();
    if (stale) this.#events.emit("resync", undefined);
  }

  async #loadOlder(): Promise<boolean> {
    this.open();
    const timeline = this.#timeline;
    if (!timeline?.more) return false;
    const meanwhile: Event[] = [];
    this.#meanwhile.add(meanwhile);
    try {
      const before = timeline.oldest as Seq;
      const page = await this.#host.call<HistoryBody>(this.#about("history", { before, limit: PAGE }));
      if (timeline !== this.#timeline) return true;
      timeline.prepend(page, meanwhile);
      this.#keep += page.messages.length;
      this.messages.changed();
      return true;
    } finally {
      this.#meanwhile.delete(meanwhile);
    }
  }

  /** Pages the log from the cursor on. */
  async #fill(): Promise<void> {
    if (this.#filling || this.#cursor === undefined || !this.#host.online) return;
    this.#filling = true;
    try {
      for (let more = true; more && this.#cursor !== undefined;) {
        const after: Seq = this.#cursor;
        const page = await this.#host.request<LogBody>(this.#about("sync", { after, limit: LOG_PAGE }));
        for (const event of page.events) this.receive(event);
        more = page.more && page.events.length > 0;
      }
    } catch (error) {
      if (error instanceof ChatError && !error.retryable) this.refused(error);
      else this.#later(error);
    } finally {
      this.#filling = false;
    }
  }

  /** Without a connection the next one brings it; otherwise the server could not, for now. */
  #later(error: unknown): void {
    if (!(error instanceof ChatError)) return this.#host.failed(error);
    if (error.code === "offline") return;
    this.#host.failed(error);
    if (error.retryable) setTimeout(() => this.#host.online && this.resume(), error.retryAfter ?? PAUSE);
  }

  #startAnew(): void {
    this.#stale = true;
    this.#cursor = undefined;
    void this.#load();
  }

  #vanish(): void {
    this.#timeline = undefined;
    this.#cursor = undefined;
    this.#summary = undefined;
    this.#ahead.clear();
    this.state.set("missing");
    this.#changed();
  }
}
