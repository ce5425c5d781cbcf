// One conversation: combines its log, the list of its messages, its members and its summary.

import { type AboutRoom, draftOf, RoomActions } from "./actions.js";
import { Alarm } from "./clock.js";
import { ChatError } from "./error.js";
import { handled } from "./handled.js";
import { History, type PageOptions } from "./history.js";
import type { Host } from "./host.js";
import { MessageList } from "./list.js";
import { Log, type Source } from "./log.js";
import { Members } from "./members.js";
import { canonical } from "./names.js";
import type { Entry } from "./outbox.js";
import type { Command, CursorBody, Event, HistoryBody, LogBody, MembersBody } from "./protocol.js";
import type { Seq, Summary, UserId } from "./protocol.js";
import { Reading } from "./reading.js";
import type { Lane } from "./scheduler.js";
import { Emitter, Store, Value } from "./store.js";
import { Standing } from "./standing.js";
import { describe, type Known } from "./summary.js";
import { eventFromWire, fromWire, type Timeline } from "./timeline.js";
import type { CommandOptions, Conversation, ConversationEvents, ConversationInfo, ConversationState } from "./types.js";
import type { Draft, Listening, Outgoing } from "./types.js";
import { Typing } from "./typing.js";

/** The methods that another object of the same conversation takes over when this one is merged into it. */
const METHODS = ["send", "outgoing", "edit", "deleteMessage", "react", "join", "leave", "invite"] as const;
const MORE_METHODS = ["removeMember", "setRole", "rename", "markRead", "loadOlder", "around", "release", "on"] as const;
const STORES = ["messages", "timeline", "hasOlder", "info", "state", "members", "typing"] as const;

export class Room extends RoomActions implements Conversation {
  readonly messages: MessageList["messages"];
  readonly timeline: MessageList["timeline"];
  readonly hasOlder: MessageList["hasOlder"];
  readonly info: Store<ConversationInfo | undefined>;
  readonly state = new Value<ConversationState>("loading");
  readonly members: Members;
  readonly typing: Typing;
  protected readonly host: Host;
  readonly report: Host["report"];
  #name: string;
  #events: Emitter<ConversationEvents>;
  #log: Log;
  #history: History;
  protected readonly list: MessageList;
  #reading: Reading;
  #older: Promise<boolean> | undefined;
  #standing = new Standing();
  /** Whether events may be missing, because `hello` did not contain this conversation's cursor. */
  #behind = false;
  /** The head of the log when the connection began: events up to here are not live. */
  #missed: Seq = 0;
  /** The cursor when the connection began. */
  #resumedAt: Seq = 0;
  /** The number of listeners of `message` and `event`. */
  #listeners = 0;
  #releasing: Alarm;
  /** The object of the same conversation into which this one was merged. */
  #target: Room = this;

  constructor(name: string, host: Host) {
    super();
    this.#name = name;
    this.host = host;
    this.report = host.report;
    this.#releasing = new Alarm(host.clock, () => this.watched || this.release());
    this.#events = new Emitter(this.report);
    this.#log = new Log(this);
    this.#history = new History(this);
    this.#reading = new Reading(host.clock, (fields) => this.#sendRead(fields));
    const hooks = { subscribed: () => this.#onWatch(true), unsubscribed: () => this.#onUnwatch() };
    this.list = new MessageList(this, hooks);
    ({ messages: this.messages, timeline: this.timeline, hasOlder: this.hasOlder } = this.list);
    this.info = new Store(() => this.summary && describe(this.summary, host.me, (seq) => this.list.find(seq)));
    this.typing = new Typing(host.clock, () => void host.request(this.about("typing", {})).catch(() => {}));
    this.members = new Members(this, { ...hooks, subscribed: () => this.#onWatch(false) });
    for (const store of STORES) Object.assign(this[store], { report: this.report, onUse: host.use });
  }

  get id(): string {
    return canonical(this.#name, this.host.me);
  }

  get cursor(): Seq | undefined {
    return this.#log.cursor;
  }

  get clock(): Host["clock"] {
    return this.host.clock;
  }

  get me(): UserId | undefined {
    return this.host.me;
  }

  get online(): boolean {
    return this.host.online;
  }

  get shown(): Timeline | undefined {
    return this.#history.shown;
  }

  /** Whether the conversation must receive every event. */
  get followed(): boolean {
    return this.#history.open || this.host.replaysAll;
  }

  /** Whether the app has a listener or a subscription on this conversation. */
  get watched(): boolean {
    return this.#listeners > 0 || this.list.subscribed || this.members.subscribed;
  }

  get summary(): Known | undefined {
    return this.#standing.summary;
  }

  /** Whether the summary must be loaded from the inbox, because it is out of date or events may be missing. */
  get behind(): boolean {
    return this.#behind || this.#standing.stale;
  }

  /** Whether the conversation has no current summary, although the inbox should have one. */
  get unknown(): boolean {
    const { current, left, uncounted } = this.#standing;
    if (current) return uncounted;
    return !left && this.#log.cursor !== 0 && this.state.getSnapshot() !== "missing";
  }

  on<K extends keyof ConversationEvents>(
    event: K,
    listener: (value: ConversationEvents[K]) => unknown,
    { replay = "all" }: Listening = {},
  ): () => void {
    this.host.use();
    const off = this.#events.on(event, listener, replay);
    const opens = event === "message" || event === "event";
    if (opens) {
      this.#listeners++;
      this.#onWatch(true);
    }
    return () => {
      if (!off() || !opens) return;
      this.#target.#listeners--;
      this.#target.#onUnwatch();
    };
  }

  release(): void {
    this.#releasing.clear();
    this.#history.close();
    this.#older = undefined;
    this.list.clear();
    this.members.close();
    this.typing.clear();
    this.state.set("loading");
  }

  send(message: string | Draft): Outgoing {
    this.host.use();
    return this.host.outbox.submit(this.id, draftOf(message));
  }

  outgoing(key: string): Outgoing | undefined {
    return this.list.outgoing(key);
  }

  markRead(upto = Infinity): void {
    upto = Math.min(upto, this.#log.cursor ?? this.summary?.head ?? 0);
    if (upto <= this.#reading.upto || !this.summary) return;
    this.#reading.mark(upto);
    this.#onRead();
  }

  loadOlder(options: CommandOptions = {}): Promise<boolean> {
    this.#onWatch(true);
    this.#onUnwatch();
    const older = (this.#older ??= this.#history.loadOlder(options).finally(() => {
      if (this.#older === older) this.#older = undefined;
      this.list.changed();
      this.list.loadNotices();
    }));
    return handled(older);
  }

  /** Handles a summary: from `welcome`, after which all events are pushed, or from a page of the inbox. */
  onSummary(summary: Summary, welcome = false): void {
    const { cursor } = this.#log;
    if (!welcome && cursor !== undefined && summary.head < cursor) {
      // Either the summary is older than the applied events, or the server has another log, and refuses a page after the cursor.
      if (summary.head < this.#resumedAt) void this.#log.fill();
      else this.host.lookUp();
      return;
    }
    this.#standing.set(summary);
    if (welcome) this.#missed = summary.head;
    this.#reading.confirm(summary.read);
    if (this.#reading.upto > summary.read) this.#onRead();
    if (cursor === undefined && !this.#history.open) this.#place(summary.head, !welcome);
    if (this.#behind) this.catchUp(summary.head);
    this.#onChange();
    const state = this.state.getSnapshot();
    if (state !== "missing" && state !== "joinable") return;
    this.state.set(this.#history.ready ? "ready" : "loading");
    if (this.watched) this.#open();
  }

  /** Handles a new connection. `replays`: the server has the cursor and replays later events. `head`: the head in `welcome`. */
  onWelcome(replays: boolean, head: Seq | undefined): void {
    this.#resumedAt = this.#log.cursor ?? 0;
    this.#history.resume();
    this.members.refresh();
    this.#reading.resume();
    this.#behind = !replays && this.followed && this.#log.cursor !== undefined;
    if (this.#behind && head !== undefined) this.catchUp(head);
  }

  /** Handles the saved cursor of an earlier run. `undefined`: there is none, so the log may begin at the current head. */
  onSavedCursor(upto?: Seq): void {
    const { cursor } = this.#log;
    if (upto === undefined) {
      const head = this.#standing.current?.head ?? this.#history.shown?.head;
      if (head !== undefined) this.#place(head);
      return;
    }
    if (cursor !== undefined && cursor <= upto) return;
    this.#log.begin(upto);
    this.#behind = true;
    if (this.#standing.current) this.catchUp(this.#standing.current.head);
  }

  /** The number of other users' messages that arrived before the summary. */
  get waiting(): number {
    return this.#log.waiting.filter(({ type, from }) => type === "message" && from !== this.host.me).length;
  }

  /** Loads missed events. `head`: the head in the summary; `undefined` if the inbox does not have the conversation. */
  catchUp(head?: Seq): void {
    this.#behind = false;
    const { cursor } = this.#log;
    if (!this.followed || cursor === undefined || cursor === head) return;
    // A direct conversation without messages has no log yet.
    if (head === undefined && cursor === 0) this.#history.reload();
    else void this.#log.fill();
  }

  onLost(): void {
    this.#standing.onLost(this.followed);
    this.#behind = false;
    this.#log.lost(this.followed);
    this.typing.clear();
    this.members.onLost();
  }

  /** Stops all timers, because the chat was closed. */
  onClose(): void {
    this.#releasing.clear();
    this.#reading.stop();
    this.#log.end();
  }

  /** Handles that the whole inbox was loaded and does not have this conversation. */
  onAbsent(): void {
    if (this.#behind) this.catchUp();
    if (!this.#standing.stale) return;
    this.#standing.clear();
    this.#onChange();
  }

  onEvent(event: Event): void {
    this.#log.receive(event, "live");
  }

  /** Handles a `gap`: the connection missed more events than the server replays. */
  onGap(head: Seq): void {
    this.#missed = Math.max(this.#missed, head);
    const every = this.host.replaysAll || this.#events.has("message", "all") || this.#events.has("event", "all");
    if (every && this.#log.cursor !== undefined) return void this.#log.fill();
    this.#log.reset();
    if (this.#history.open) this.#history.reload();
    else this.#log.place(head, true);
  }

  onRefused(error: ChatError): void {
    if (error.code === "bad_cursor") this.#startAnew();
    else if (error.code !== "not_found") this.host.report(error);
    else if (this.id[0] === "@") this.#history.reload();
    else this.#vanish();
  }

  onReadSignal(user: UserId, upto: Seq): void {
    if (user === this.host.me) {
      this.#reading.confirm(upto);
      this.#onRead();
    }
    this.members.onCursor(user, { read: upto, received: upto });
  }

  onReceivedSignal(user: UserId, upto: Seq): void {
    this.members.onCursor(user, { received: upto });
  }

  onTypingSignal(user: UserId): void {
    if (user !== this.host.me) this.typing.started(user);
  }

  /** Handles that an entry of the outbox was added, changed or (with `gone`) removed. */
  onOutboxChange(entry: Entry, gone: boolean): void {
    const passed = entry.stored && entry.stored.seq <= (this.#log.cursor ?? 0);
    this.list.onOutboxChange(entry, gone || !!passed);
  }

  /** Handles that the server has stored an entry: its event is applied after all earlier events. */
  onStored(entry: Entry, event: Event): void {
    this.onOutboxChange(entry, false);
    if (this.#log.cursor === undefined || event.seq > this.#log.cursor) this.#log.receive(event, "own");
  }

  protected onOwnEvent(event: Event): void {
    // A leave is applied at once, because earlier events may never arrive: the server pushes events to members only.
    if (event.type === "leave") this.#stand(event);
    this.#log.receive(event, "own");
  }

  protected onEditFailed(failed: ConversationEvents["editFailed"]): void {
    this.#events.emit("editFailed", failed);
  }

  /** Merges this object into `target`, which is the same conversation under another name. */
  mergeInto(target: Room): void {
    const own = this as unknown as Record<string, unknown>;
    for (const name of [...METHODS, ...MORE_METHODS]) own[name] = (target[name] as () => void).bind(target);
    for (const name of STORES) (this[name] as Store<unknown>).follow(target[name] as Store<unknown>);
    target.#events.link(this.#events);
    target.#listeners += this.#listeners;
    this.#target = target;
    for (const entry of this.list.entries) target.onOutboxChange(entry, false);
    if (this.#history.open) target.#onWatch(true);
    target.#onUnwatch();
    this.#releasing.clear();
    this.#history.close();
  }

  // ---- Methods for the log, the list and the members.

  readHistory(fields: { before?: Seq; limit: number }, options?: PageOptions): Promise<HistoryBody> {
    if (!options) return this.#background("history", fields);
    return this.host.call(this.about("history", fields), options);
  }

  readLog(after: Seq, limit: number): Promise<LogBody> {
    return this.#background("sync", { after, limit });
  }

  readMembers(fields: { after?: UserId; limit: number }): Promise<MembersBody> {
    return this.#background("members", fields);
  }

  onUnplaced(): void {
    if (this.#history.open) this.#history.load();
    else this.host.lookUp();
  }

  onOvertaken(event: Event): void {
    this.#tell(event, "live");
  }

  apply(event: Event, source: Source): void {
    const { me, outbox } = this.host;
    this.#history.apply(event);
    this.list.onEvent(event);
    this.members.apply(event);
    if (event.type === "message") {
      this.typing.stopped(event.from);
      if (event.from === me && event.key) outbox.confirm(event, event.key);
    }
    // After an erasure all messages of the erased user have changed.
    if ((event.type as string) === "erase") this.#history.reload();
    this.list.onCursor(event.seq);
    this.#stand(event);
    this.#tell(event, source);
  }

  #stand(event: Event): void {
    const before = this.summary;
    if (!this.#standing.apply(event, this.host.me)) this.host.lookUp();
    if (this.#standing.left && before) this.state.set(before.public ? "joinable" : "missing");
    this.#onChange();
  }

  onLoaded(head: Seq, rebuilt: boolean): void {
    this.#place(head);
    this.#onListReady();
    if (rebuilt) this.#events.emit("resync", undefined);
  }

  onLoadFailed(error: unknown): void {
    if (!(error instanceof ChatError) || error.code !== "not_found") return this.host.report(error);
    if (this.id[0] !== "@") return this.#vanish();
    // A direct conversation does not exist before its first message.
    this.#history.begin();
    this.#log.place(0);
    this.#onListReady();
  }

  #onWatch(opens: boolean): void {
    this.#releasing.clear();
    if (opens) this.#open();
  }

  #onUnwatch(): void {
    const { releaseAfter } = this.host;
    if (this.watched || releaseAfter === Infinity || this.host.closed) return;
    this.#releasing.reset(releaseAfter);
  }

  #open(): void {
    if (!this.#history.open) this.#history.load();
  }

  #background<T>(type: AboutRoom["type"], fields: object | (() => object | undefined), lane?: Lane): Promise<T> {
    const urgency = () => (this.watched ? 0 : 1);
    const command = () => {
      const now = fields instanceof Function ? (fields() as object | undefined) : fields;
      return now && ({ type, conversation: this.id, ...now } as Command);
    };
    return this.host.scheduler.request<T>(command, urgency, lane);
  }

  /** Sets the cursor of the log: to `head`, or to the last handled event of an earlier run. */
  #place(head: Seq, fromInbox = false): void {
    if (this.#log.cursor !== undefined) return;
    const begin = this.host.baseline(this.id, this.summary);
    if (begin === "pending") return;
    if (begin === undefined || begin > head) return this.#log.place(head, fromInbox);
    this.#log.begin(begin);
    if (begin < head) void this.#log.fill();
  }

  #tell(event: Event, source: Source): void {
    const live = source !== "sync" && event.seq > this.#missed;
    const message = event.type === "message" ? (this.list.find(event.seq) ?? fromWire(event)) : undefined;
    for (const replay of live ? (["all", "none"] as const) : (["all"] as const)) {
      if (this.#history.open) this.#events.emit("event", eventFromWire(event), replay);
      if (this.#history.open && message) this.#events.emit("message", message, replay);
    }
    this.host.onEvent(event, message, this, live);
  }

  /** Handles that the read cursor has moved. */
  #onRead(): void {
    const { upto, confirmed } = this.#reading;
    if (!this.summary) return;
    this.#standing.read(upto, (after) => this.#history.shown?.unread(after, this.host.me as UserId));
    // If the messages after the cursor are not loaded, the server counts them, once it has the cursor.
    if (this.#standing.uncounted && upto <= confirmed) this.host.lookUp();
    this.#onChange();
  }

  async #sendRead(fields: () => object | undefined): Promise<CursorBody | undefined> {
    const body = await this.#background<CursorBody | undefined>("read", fields, "reads");
    if (body?.upto) this.members.onCursor(this.host.me as UserId, { read: body.upto, received: body.upto });
    if (this.#standing.uncounted) this.host.lookUp();
    return body;
  }

  #onListReady(): void {
    if (this.state.getSnapshot() !== "joinable" || this.summary) this.state.set("ready");
    this.list.onCursor(this.#log.cursor ?? 0);
    this.list.loadNotices();
    if (!this.members.loaded) this.members.refresh();
    this.#onChange();
    if (this.unknown) this.host.lookUp();
  }

  /** Discards all that was loaded and loads it again, because the server was restored from a backup and has another log. */
  #startAnew(): void {
    this.#log.reset();
    this.#reading.reset();
    const { current } = this.#standing;
    if (current) this.#reading.confirm(current.read);
    if (this.#history.open) this.#history.reload();
    else if (current) this.#log.place(current.head, true);
    else this.host.lookUp();
  }

  #vanish(): void {
    this.#history.close();
    this.#log.reset();
    this.#standing.clear();
    this.state.set("missing");
    this.#onChange();
  }

  #onChange(): void {
    this.list.changed();
    this.info.changed();
    this.host.onRoomChange();
  }
}
