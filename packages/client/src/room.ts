// One conversation: combines its log, the list of its messages, its members and its summary.

import { draftOf, RoomActions } from "./actions.js";
import { Alarm } from "./clock.js";
import { ChatError } from "./error.js";
import { ignoreUnhandledRejection } from "./rejection.js";
import { History } from "./history.js";
import type { RoomOwner } from "./room-owner.js";
import { MessageList } from "./list.js";
import { EventLog, type EventSource } from "./log.js";
import { Members } from "./members.js";
import { MERGED_METHODS, MERGED_STORES } from "./merged.js";
import { conversationId, usersOfDirect } from "./names.js";
import type { Entry } from "./outbox.js";
import type { CursorBody, Event, Seq, Summary, UserId } from "./protocol.js";
import { ReadCursor } from "./reading.js";
import { Emitter, Store, Value } from "./store.js";
import { SummaryState } from "./summary-state.js";
import { infoOf, type RoomSummary } from "./summary.js";
import { eventFromWire, messageFromWire, type Timeline } from "./timeline.js";
import type { CommandOptions, Conversation, ConversationEvents, ConversationInfo, ConversationState } from "./types.js";
import type { Draft, Listening, Outgoing } from "./types.js";
import { Typing } from "./typing.js";

export class Room extends RoomActions implements Conversation {
  readonly messages: MessageList["messages"];
  readonly timeline: MessageList["timeline"];
  readonly hasOlder: MessageList["hasOlder"];
  readonly info: Store<ConversationInfo | undefined>;
  readonly state = new Value<ConversationState>("loading");
  readonly members: Members;
  readonly typing: Typing;
  protected readonly owner: RoomOwner;
  readonly report: RoomOwner["report"];
  #name: string;
  #events: Emitter<ConversationEvents>;
  #log: EventLog;
  #history: History;
  protected readonly list: MessageList;
  #readCursor: ReadCursor;
  #olderRequest: Promise<boolean> | undefined;
  #summaryState = new SummaryState();
  /** Whether events may be missing, because `hello` did not contain this conversation's cursor. */
  #mayMissEvents = false;
  /** The head of the log when the connection began: events up to here are not live. */
  #headAtConnect: Seq = 0;
  /** The cursor when the connection began. */
  #cursorAtConnect: Seq = 0;
  /** The number of listeners of `message` and `event`. */
  #listenerCount = 0;
  #releaseAlarm: Alarm;
  /** The object of the same conversation into which this one was merged. */
  #mergedInto: Room = this;

  constructor(name: string, owner: RoomOwner) {
    super();
    this.#name = name;
    this.owner = owner;
    this.report = owner.report;
    this.#releaseAlarm = new Alarm(owner.clock, () => this.isWatched || this.release());
    this.#events = new Emitter(this.report);
    this.#log = new EventLog(this);
    this.#history = new History(this);
    this.#readCursor = new ReadCursor(owner.clock, (fields) => this.#requestRead(fields));
    const hooks = { onSubscribe: () => this.#onSubscribe(true), onUnsubscribe: () => this.#onUnsubscribe() };
    this.list = new MessageList(this, hooks);
    ({ messages: this.messages, timeline: this.timeline, hasOlder: this.hasOlder } = this.list);
    this.info = new Store(() => this.summary && infoOf(this.summary, owner.me, (seq) => this.list.findMessage(seq)));
    this.typing = new Typing(owner.clock, () => void owner.request(this.roomCommand("typing", {})).catch(() => {}));
    this.members = new Members(this, { ...hooks, onSubscribe: () => this.#onSubscribe(false) });
    for (const store of MERGED_STORES) Object.assign(this[store], { report: this.report, onUse: owner.connect });
  }

  get id(): string {
    return conversationId(this.#name, this.owner.me);
  }

  get cursor(): Seq | undefined {
    return this.#log.cursor;
  }

  get clock(): RoomOwner["clock"] {
    return this.owner.clock;
  }

  get online(): boolean {
    return this.owner.online;
  }

  get shownTimeline(): Timeline | undefined {
    return this.#history.shownTimeline;
  }

  /** Whether the conversation must receive every event. */
  get needsEveryEvent(): boolean {
    return this.#history.isOpen || this.owner.wantsEveryMessage;
  }

  /** Whether the app has a listener or a subscription on this conversation. */
  get isWatched(): boolean {
    return this.#listenerCount > 0 || this.list.hasSubscribers || this.members.isSubscribed;
  }

  get summary(): RoomSummary | undefined {
    return this.#summaryState.summary;
  }

  /** Whether the summary must be loaded from the inbox, because it is out of date or events may be missing. */
  get needsSummary(): boolean {
    return this.#mayMissEvents || this.#summaryState.isStale;
  }

  /** Whether the conversation has no current summary, although the inbox should have one. */
  get lacksSummary(): boolean {
    const { currentSummary, hasLeft, isBlocked, isUncounted } = this.#summaryState;
    if (currentSummary) return isUncounted;
    return (
      !hasLeft && !isBlocked && this.#log.cursor !== 0 && !this.#log.isEnded && this.state.getSnapshot() !== "missing"
    );
  }

  on<K extends keyof ConversationEvents>(
    event: K,
    listener: (value: ConversationEvents[K]) => unknown,
    { replay = "all" }: Listening = {},
  ): () => void {
    this.owner.connect();
    const removeListener = this.#events.on(event, listener, replay);
    const opens = event === "message" || event === "event";
    if (opens) {
      this.#listenerCount++;
      this.#onSubscribe(true);
    }
    return () => {
      if (!removeListener() || !opens) return;
      this.#mergedInto.#listenerCount--;
      this.#mergedInto.#onUnsubscribe();
    };
  }

  release(): void {
    this.#releaseAlarm.clear();
    this.#history.close();
    this.#olderRequest = undefined;
    this.list.clear();
    this.members.close();
    this.typing.clear();
    this.state.set("loading");
  }

  send(message: string | Draft): Outgoing {
    this.owner.connect();
    return this.owner.outbox.submit(this.id, draftOf(message));
  }

  outgoing(key: string): Outgoing | undefined {
    return this.list.outgoing(key);
  }

  markRead(upto = Infinity): void {
    upto = Math.min(upto, this.#log.cursor ?? this.summary?.head ?? 0);
    if (upto <= this.#readCursor.readUpto || !this.summary) return;
    this.#readCursor.markRead(upto);
    this.#onReadCursorMoved();
  }

  loadOlder(options: CommandOptions = {}): Promise<boolean> {
    this.#onSubscribe(true);
    this.#onUnsubscribe();
    const older = (this.#olderRequest ??= this.#history.loadOlder(options).finally(() => {
      if (this.#olderRequest === older) this.#olderRequest = undefined;
      this.list.invalidate();
      this.list.loadNotices();
    }));
    return ignoreUnhandledRejection(older);
  }

  /** Handles a summary: from `welcome`, after which all events are pushed, or from a page of the inbox. */
  onSummary(summary: Summary, welcome = false): void {
    const { cursor } = this.#log;
    if (!welcome && cursor !== undefined && summary.head < cursor) {
      // Either the summary is older than the applied events, or the server has another log, and refuses a page after the cursor.
      if (summary.head < this.#cursorAtConnect) void this.#log.loadMissed();
      else this.owner.lookUp();
      return;
    }
    this.#summaryState.setSummary(summary);
    if (welcome) this.#headAtConnect = summary.head;
    this.#readCursor.confirm(summary.read);
    if (this.#readCursor.readUpto > summary.read) this.#onReadCursorMoved();
    if (cursor === undefined && !this.#history.isOpen) this.#startLog(summary.head, !welcome);
    if (this.#mayMissEvents) this.catchUp(summary.head);
    this.#onChange();
    const state = this.state.getSnapshot();
    if (state !== "missing" && state !== "joinable") return;
    this.state.set(this.#history.isReady ? "ready" : "loading");
    if (this.isWatched) this.#openHistory();
  }

  /** Handles a new connection. `replays`: the server has the cursor and replays later events. `head`: the head in `welcome`. */
  onWelcome(replays: boolean, head: Seq | undefined): void {
    this.#cursorAtConnect = this.#log.cursor ?? 0;
    this.#history.resumeLoading();
    this.members.refresh();
    this.#readCursor.sendUnconfirmed();
    this.#mayMissEvents = !replays && this.needsEveryEvent && this.#log.cursor !== undefined;
    if (this.#mayMissEvents && head !== undefined) this.catchUp(head);
  }

  /** Handles the saved cursor of an earlier run. `undefined`: there is none, so the log may begin at the current head. */
  onSavedCursor(upto?: Seq): void {
    const { cursor } = this.#log;
    if (upto === undefined) {
      const head = this.#summaryState.currentSummary?.head ?? this.#history.shownTimeline?.head;
      if (head !== undefined) this.#startLog(head);
      return;
    }
    if (cursor !== undefined && cursor <= upto) return;
    this.#log.startAtCursor(upto);
    this.#mayMissEvents = true;
    if (this.#summaryState.currentSummary) this.catchUp(this.#summaryState.currentSummary.head);
  }

  /** The number of other users' messages that arrived before the summary. */
  get waitingCount(): number {
    return this.#log.waitingEvents.filter(({ type, from }) => type === "message" && from !== this.owner.me).length;
  }

  /** Loads missed events. `head`: the head in the summary; `undefined` if the inbox does not have the conversation. */
  catchUp(head?: Seq): void {
    this.#mayMissEvents = false;
    const { cursor } = this.#log;
    if (!this.needsEveryEvent || cursor === undefined || cursor === head) return;
    // A direct conversation without messages has no log yet.
    if (head === undefined && cursor === 0) this.#history.reloadLatestPage();
    else void this.#log.loadMissed();
  }

  onOffline(): void {
    this.#summaryState.onOffline(this.needsEveryEvent);
    this.#mayMissEvents = false;
    this.#log.onOffline(this.needsEveryEvent);
    this.typing.clear();
    this.members.onOffline();
  }

  /** Stops all timers, because the chat was closed. */
  onClose(): void {
    this.#releaseAlarm.clear();
    this.#readCursor.stop();
    this.#log.close();
  }

  /** Handles that the whole inbox was loaded and does not have this conversation. */
  onNotInInbox(): void {
    if (this.#mayMissEvents) this.catchUp();
    if (!this.#summaryState.isStale) return;
    this.#summaryState.clear();
    this.#onChange();
  }

  onPushedEvent(event: Event): void {
    this.#log.receive(event, "live");
  }

  /** Handles a `gap`: the connection missed more events than the server replays. */
  onGap(head: Seq): void {
    this.#headAtConnect = Math.max(this.#headAtConnect, head);
    const every =
      this.owner.wantsEveryMessage || this.#events.has("message", "all") || this.#events.has("event", "all");
    if (every && this.#log.cursor !== undefined) return void this.#log.loadMissed();
    this.#log.reset();
    if (this.#history.isOpen) this.#history.reloadLatestPage();
    else this.#log.startAtHead(head, true);
  }

  /** Handles that the user has blocked another user, or no longer blocks them: the server shows another form of the log. */
  onBlock(user: UserId, on: boolean): void {
    this.#summaryState.onBlock(on && usersOfDirect(this.id).includes(user));
    this.#history.reloadLatestPage();
    this.list.clearNotices();
    this.#onChange();
  }

  onRefused(error: ChatError): void {
    if (error.code === "bad_cursor") return this.#reloadEverything();
    if (error.code !== "not_found") return this.owner.report(error);
    if (this.id[0] === "@" && !this.summary) return this.#history.reloadLatestPage();
    this.#setMissing();
    this.owner.lookUp(); // A user who was renamed is in the list under another id.
  }

  onReadSignal(user: UserId, upto: Seq): void {
    if (user === this.owner.me) {
      this.#readCursor.confirm(upto);
      this.#onReadCursorMoved();
    }
    this.members.onCursor(user, { read: upto, received: upto });
  }

  onReceivedSignal(user: UserId, upto: Seq): void {
    this.members.onCursor(user, { received: upto });
  }

  onTypingSignal(user: UserId): void {
    if (user !== this.owner.me) this.typing.onTypingStarted(user);
  }

  /** Handles that an entry of the outbox was added, changed or (with `gone`) removed. */
  onOutboxChange(entry: Entry, gone: boolean): void {
    const isPassedByCursor = entry.acknowledged && entry.acknowledged.seq <= (this.#log.cursor ?? 0);
    this.list.onOutboxChange(entry, gone || !!isPassedByCursor);
  }

  /** Handles that the server has stored an entry: its event is applied after all earlier events. */
  onMessageStored(entry: Entry, event: Event): void {
    this.onOutboxChange(entry, false);
    if (this.#log.cursor === undefined || event.seq > this.#log.cursor) this.#log.receive(event, "own");
  }

  protected onOwnEvent(event: Event): void {
    // A leave is applied at once, because earlier events may never arrive: the server pushes events to members only.
    if (event.type === "leave") this.#applyToSummary(event);
    this.#log.receive(event, "own");
  }

  protected onEditFailed(failed: ConversationEvents["editFailed"]): void {
    this.#events.emit("editFailed", failed);
  }

  /** Merges this object into `target`, which is the same conversation under another name. */
  mergeInto(target: Room): void {
    const own = this as unknown as Record<string, unknown>;
    for (const name of MERGED_METHODS) own[name] = (target[name] as () => void).bind(target);
    for (const name of MERGED_STORES) (this[name] as Store<unknown>).follow(target[name] as Store<unknown>);
    target.#events.link(this.#events);
    target.#listenerCount += this.#listenerCount;
    this.#mergedInto = target;
    for (const entry of this.list.entries) target.onOutboxChange(entry, false);
    if (this.#history.isOpen) target.#onSubscribe(true);
    target.#onUnsubscribe();
    this.#releaseAlarm.clear();
    this.#history.close();
  }

  // ---- Methods for the log, the list and the members.

  onEarlyEvent(): void {
    if (this.#history.isOpen) this.#history.loadLatestPage();
    else this.owner.lookUp();
  }

  onEventInSummary(event: Event): void {
    this.#emitEvent(event, "live");
  }

  applyEvent(event: Event, source: EventSource): void {
    const { me, outbox } = this.owner;
    if (event.type === "end") {
      this.#emitEvent(event, source);
      return this.#setMissing();
    }
    this.#history.applyEvent(event);
    this.list.onEvent(event);
    this.members.applyEvent(event);
    if (event.type === "message") {
      this.typing.onTypingStopped(event.from);
      if (event.from === me && event.key) outbox.onOwnMessage(event, event.key);
    }
    // After an erasure all messages of the erased user have changed.
    if ((event.type as string) === "erase") this.#history.reloadLatestPage();
    this.list.onCursor(event.seq);
    this.#applyToSummary(event);
    this.#emitEvent(event, source);
  }

  #applyToSummary(event: Event): void {
    const before = this.summary;
    if (!this.#summaryState.applyEvent(event, this.owner.me)) this.owner.lookUp();
    if (this.#summaryState.hasLeft && before) this.state.set(before.public ? "joinable" : "missing");
    this.#onChange();
  }

  onHistoryLoaded(head: Seq, rebuilt: boolean): void {
    this.#startLog(head);
    this.#onListReady();
    if (rebuilt) this.#events.emit("resync", undefined);
  }

  onHistoryLoadFailed(error: unknown): void {
    if (!(error instanceof ChatError) || error.code !== "not_found") return this.owner.report(error);
    if (this.id[0] !== "@") return this.#setMissing();
    // A direct conversation does not exist before its first message.
    this.#history.openEmpty();
    this.#log.startAtHead(0);
    this.#onListReady();
  }

  #onSubscribe(opens: boolean): void {
    this.#releaseAlarm.clear();
    if (opens) this.#openHistory();
  }

  #onUnsubscribe(): void {
    const { releaseAfter } = this.owner;
    if (this.isWatched || releaseAfter === Infinity || this.owner.closed) return;
    this.#releaseAlarm.reset(releaseAfter);
  }

  #openHistory(): void {
    if (!this.#history.isOpen) this.#history.loadLatestPage();
  }

  /** Sets the cursor of the log: to `head`, or to the last handled event of an earlier run. */
  #startLog(head: Seq, fromInbox = false): void {
    if (this.#log.cursor !== undefined) return;
    const baseline = this.owner.initialCursor(this.id, this.summary);
    if (baseline === "pending") return;
    if (baseline === undefined || baseline > head) return this.#log.startAtHead(head, fromInbox);
    this.#log.startAtCursor(baseline);
    if (baseline < head) void this.#log.loadMissed();
  }

  #emitEvent(event: Event, source: EventSource): void {
    const isLive = source !== "sync" && event.seq > this.#headAtConnect;
    const message = event.type === "message" ? (this.list.findMessage(event.seq) ?? messageFromWire(event)) : undefined;
    for (const replay of isLive ? (["all", "none"] as const) : (["all"] as const)) {
      if (this.#history.isOpen) this.#events.emit("event", eventFromWire(event), replay);
      if (this.#history.isOpen && message) this.#events.emit("message", message, replay);
    }
    this.owner.onEventApplied(event, message, this, isLive);
  }

  /** Handles that the read cursor has moved. */
  #onReadCursorMoved(): void {
    const { readUpto, confirmedUpto } = this.#readCursor;
    if (!this.summary) return;
    const countUnread = (after: Seq) => this.#history.shownTimeline?.countUnread(after, this.owner.me as UserId);
    this.#summaryState.moveReadCursor(readUpto, countUnread);
    // If the messages after the cursor are not loaded, the server counts them, once it has the cursor.
    if (this.#summaryState.isUncounted && readUpto <= confirmedUpto) this.owner.lookUp();
    this.#onChange();
  }

  async #requestRead(fields: () => object | undefined): Promise<CursorBody | undefined> {
    const body = await this.scheduleRequest<CursorBody | undefined>("read", fields, "reads");
    if (body?.upto) this.members.onCursor(this.owner.me as UserId, { read: body.upto, received: body.upto });
    if (this.#summaryState.isUncounted) this.owner.lookUp();
    return body;
  }

  #onListReady(): void {
    if (this.state.getSnapshot() !== "joinable" || this.summary) this.state.set("ready");
    this.list.onCursor(this.#log.cursor ?? 0);
    this.list.loadNotices();
    if (!this.members.isLoaded) this.members.refresh();
    this.#onChange();
    if (this.lacksSummary) this.owner.lookUp();
  }

  /** Discards all that was loaded and loads it again, because the server was restored from a backup and has another log. */
  #reloadEverything(): void {
    this.#log.reset();
    this.#readCursor.reset();
    const { currentSummary } = this.#summaryState;
    if (currentSummary) this.#readCursor.confirm(currentSummary.read);
    if (this.#history.isOpen) this.#history.reloadLatestPage();
    else if (currentSummary) this.#log.startAtHead(currentSummary.head, true);
    else this.owner.lookUp();
  }

  #setMissing(): void {
    this.#history.close();
    this.#log.reset();
    this.#summaryState.clear();
    this.state.set(this.#log.isEnded ? "ended" : "missing");
    this.#onChange();
  }

  #onChange(): void {
    this.list.invalidate();
    this.info.invalidate();
    this.owner.onRoomChange();
  }
}
