// The connection to the server: one WebSocket at a time, which is replaced after it is lost.

import { Alarm, type Clock, type Timer } from "./clock.js";
import { compact } from "./compact.js";
import { browserNetwork } from "./connection/network.js";
import {
  retryDelay,
  decideRetry,
  NO_CONNECTION_REASON,
  isTokenRefusal,
  CLOSE_UNAUTHORIZED,
} from "./connection/retry.js";
import { type Credentials, TokenSource } from "./connection/token.js";
import { type ReplyHandler, WriteQueue } from "./connection/writes.js";
import { ChatError, localError } from "./error.js";
import type { Command, Failure, OkBody, Permissions, ServerFrame, Welcome } from "./protocol.js";
import { Value } from "./store.js";
import { storesEvent } from "./stored.js";
import type { ChatOptions, ChatStatus } from "./types.js";
import { wellFormedJson } from "./well-formed.js";

/** Milliseconds without a frame after which the client sends a `ping`, because browsers do not show the server's pings. */
const PING_AFTER_MS = 25_000;
/** Milliseconds within which a frame must arrive after a `ping`, and `welcome` after the connection was opened. */
const ANSWER_TIMEOUT_MS = 10_000;
/** Milliseconds within which a frame must arrive after a `ping` that checks a connection for which a user may be waiting. */
const FOREGROUND_ANSWER_TIMEOUT_MS = 4_000;
/** Milliseconds between two checks of the time-outs. Background pages may check only once a minute, which is also correct. */
const TIMEOUT_CHECK_INTERVAL_MS = 5_000;
/** A connection that lasted this many milliseconds resets the backoff. */
const BACKOFF_RESET_AFTER_MS = 10_000;
/** Milliseconds over which hidden pages spread their reconnects when the network returns. */
const MAX_ONLINE_JITTER_MS = 1_000;

/** A frame that the server sends without a command. */
export type ServerNotice = Exclude<ServerFrame, { type: "welcome" | "ok" | "pong" | "bye" }>;

export interface ConnectionEvents {
  /** Returns the cursors for `hello`, in at most this many bytes. */
  helloCursors(bytes: number): Record<string, number>;
  /** The user that the token names. The server may name the user differently. */
  onUser(user: string): void;
  onWelcome(frame: Welcome): void;
  /** What the user may do from now on; `undefined` if the server does not say. */
  onPermissions(permissions: Permissions | undefined): void;
  onNotice(frame: ServerNotice): void;
  onOffline(): void;
  /** Reports an exception of the SDK or of the app that was thrown while a frame was handled. */
  report(error: ChatError): void;
}

type State =
  | { at: "idle" }
  | { at: "requesting-token"; abortController: AbortController }
  | { at: "opening"; socket: WebSocket }
  | { at: "online"; socket: WebSocket; since: number }
  | { at: "waiting"; timer: Timer; byServer: boolean }
  | { at: "ended" };

/** Writes a line about the connection, for the option `debug`. */
export type DebugLog = (line: string, ...details: unknown[]) => void;

export class Connection {
  readonly status = new Value<ChatStatus>({ state: "idle" });
  #state: State = { at: "idle" };
  #tokens: TokenSource;
  #failedAttempts = 0;
  /** Whether a new token was requested after the server refused the previous one, since the last `welcome`. */
  #tokenWasRenewed = false;
  #replyHandlers = new Map<number, ReplyHandler>();
  #nextId = 1;
  /** The writes of the current connection that the server has neither stored nor refused for good. */
  #writeQueue: WriteQueue | undefined;
  /** When the last frame was received: by the clock that users cannot set, and by the wall clock. */
  #lastFrameAt = 0;
  #lastFrameWallTime = 0;
  #answerDeadline = Infinity;
  #retryAfter: number | undefined;
  /** The last `error` frame, if no other frame came after it: the reason of a close that follows. */
  #lastErrorFrame: ChatError | undefined;
  #timeoutCheck: Alarm;
  #closed = false;
  #maxHelloBytes = 8_192;
  #maxFrameBytes = Infinity;
  /** Ends the subscription to network events, which begins with the first attempt: an unused chat can be garbage-collected. */
  #unsubscribeFromNetwork: (() => void) | undefined;

  constructor(
    readonly url: string,
    readonly options: ChatOptions,
    readonly clock: Clock,
    readonly events: ConnectionEvents,
    readonly log: DebugLog,
  ) {
    this.#timeoutCheck = new Alarm(clock, () => this.#onTimeoutCheck());
    this.#tokens = new TokenSource(options, clock, (user) => events.onUser(user));
  }

  get online(): boolean {
    return this.#state.at === "online";
  }

  /**
   * Sends a command; `onReply` is called once, before the next frame is handled, and at the latest when the connection is lost.
   * A write that the server refuses as retryable is sent again, in the same order, for as long as `isWanted` returns true.
   */
  command(command: Command, onReply: ReplyHandler, isWanted = () => true): void {
    if (!this.online) return onReply(this.#closed ? closedError() : localError("offline", NO_CONNECTION_REASON));
    const id = this.#nextId++;
    if (storesEvent(command.type)) this.#writeQueue!.add({ command, onReply, isWanted, number: id });
    else this.#sendCommand(id, command, onReply);
  }

  #sendCommand(id: number, command: Command, done: ReplyHandler): void {
    let frame: string;
    try {
      frame = wellFormedJson({ ...command, id });
    } catch (error) {
      return done(localError("invalid", `this command is not JSON: ${String(error)}`, error));
    }
    // The server would close the connection because of this frame, so the command fails here, asynchronously as if it was sent.
    if (isLongerThan(frame, this.#maxFrameBytes))
      return queueMicrotask(() => done(tooLargeError(command, this.#maxFrameBytes)));
    this.#replyHandlers.set(id, done);
    this.#sendFrame(command.type, frame, id);
  }

  /** Sends a command and returns a promise of its answer. */
  request<T extends OkBody>(command: Command, wanted?: () => boolean): Promise<T> {
    return new Promise((resolve, reject) => {
      this.command(command, (reply) => (reply instanceof ChatError ? reject(reply) : resolve(reply as T)), wanted);
    });
  }

  /** Handles the first use of the chat: connects, unless the app has set `start: false`. */
  connect(): void {
    if (this.options.start !== false) this.start();
  }

  /** Connects for the first time; later calls have no effect. */
  start(): void {
    if (this.#state.at === "idle") this.#startAttempt();
  }

  /** Connects at once, without the rest of the delay. If a token is being requested, requests it again. */
  reconnect(): void {
    const { at } = this.#state;
    if (at !== "opening" && at !== "online") this.#startAttempt();
  }

  /** Closes the connection, because a request had no answer within its time-out. */
  closeLost(): void {
    if (this.online) this.#onClose(undefined, "no answer");
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#unsubscribeFromNetwork?.();
    this.#enterState({ at: "idle" });
    this.status.set({ state: "idle" });
    this.#failUnanswered(closedError());
    this.log("closed");
  }

  #startAttempt(): void {
    if (this.#closed) return;
    const network = this.options.network ?? browserNetwork;
    this.#unsubscribeFromNetwork ??= network.subscribe((event) => this.#onNetworkEvent(event));
    const abortController = new AbortController();
    this.#enterState({ at: "requesting-token", abortController });
    this.status.set({ state: "connecting" });
    this.log("asking for the token");
    const isCurrentAttempt = () =>
      this.#state.at === "requesting-token" && this.#state.abortController === abortController;
    this.#tokens.credentials(abortController.signal).then(
      (credentials) => isCurrentAttempt() && this.#openSocket(credentials),
      (error: unknown) => {
        if (!isCurrentAttempt()) return;
        const isFinal = (error as Partial<ChatError>).code === "unauthorized" || !this.#tokens.isRenewable;
        this.#onOffline({
          error: error instanceof ChatError ? error : localError("unauthorized", String(error)),
          isFinal,
        });
      },
    );
  }

  #openSocket(credentials: Credentials): void {
    const Socket = this.options.WebSocket ?? globalThis.WebSocket;
    let socket: WebSocket;
    this.log("connecting to", this.url);
    try {
      socket = new Socket(this.url, "switchboard.v1");
    } catch (error) {
      // The platform has no WebSocket, or forbids it on this page, so another attempt would fail the same way.
      return this.#onOffline({ error: localError("offline", String(error), error), isFinal: true });
    }
    this.#state = { at: "opening", socket };
    this.#lastErrorFrame = this.#retryAfter = undefined;
    this.#recordFrameTime();
    this.#answerDeadline = this.clock.now() + ANSWER_TIMEOUT_MS;
    this.#timeoutCheck.reset(TIMEOUT_CHECK_INTERVAL_MS);
    const isCurrentSocket = () => "socket" in this.#state && this.#state.socket === socket;
    socket.onopen = () => this.#sendHello(credentials);
    socket.onmessage = ({ data }) => isCurrentSocket() && this.#onData(String(data));
    socket.onclose = ({ code, reason }) => isCurrentSocket() && this.#onClose(code, reason);
    // Ignored, because a `close` event follows every `error` event, and is handled.
    socket.onerror = () => {};
  }

  #sendHello(credentials: Credentials): void {
    const { device } = this.options;
    const hello = { type: "hello" as const, ...credentials, ...(device !== undefined && { device }) };
    const bytes = this.#maxHelloBytes - utf8Length(JSON.stringify(hello)) - '"cursors":{},'.length;
    this.#sendFrame(hello.type, wellFormedJson({ ...hello, cursors: this.events.helloCursors(bytes) }));
  }

  #sendFrame(type: string, frame: string, id: number | "" = ""): void {
    this.log(`→ ${type}`, id);
    if ("socket" in this.#state) this.#state.socket.send(frame);
  }

  #onData(data: string): void {
    this.#recordFrameTime();
    if (this.online) this.#answerDeadline = Infinity;
    try {
      this.#onFrame(JSON.parse(data) as ServerFrame);
    } catch (error) {
      // The exception is only reported, so that later frames are still handled.
      this.events.report(localError("internal", String(error), error));
    }
  }

  #onFrame(frame: ServerFrame): void {
    this.log(`← ${frame.type}`, "id" in frame ? frame.id : "");
    if (frame.type !== "error" && frame.type !== "bye") this.#lastErrorFrame = undefined;
    switch (frame.type) {
      case "welcome":
        return this.#onWelcome(frame);
      case "bye":
        this.#retryAfter = frame.retry_after;
        return;
      case "ok":
        // The answer to `token` has the permissions of the newer token.
        if ("permissions" in frame) this.events.onPermissions(frame.permissions as Permissions);
        return this.#callReplyHandler(frame.id, frame as OkBody);
      case "pong":
        return this.#callReplyHandler(frame.id, frame as OkBody);
      case "error":
        return this.#onError(frame);
      default:
        this.events.onNotice(frame);
    }
  }

  #onWelcome(frame: Welcome): void {
    if (!("socket" in this.#state)) return;
    this.#state = { at: "online", socket: this.#state.socket, since: this.clock.now() };
    const acceptsNumbers = frame.features?.includes("numbers");
    this.#writeQueue = new WriteQueue(this.clock, ({ number, command }, after, done) =>
      this.#sendCommand(number, acceptsNumbers ? Object.assign({ n: number, after }, command) : command, done),
    );
    this.#maxHelloBytes = frame.limits.hello_frame;
    this.#maxFrameBytes = frame.limits.frame;
    this.#answerDeadline = Infinity;
    this.#tokenWasRenewed = false;
    this.status.set({ state: "online" });
    this.events.onWelcome(frame);
  }

  #onError(frame: Failure & { type: "error" }): void {
    const error = new ChatError(frame);
    if (frame.id !== undefined) return this.#callReplyHandler(frame.id, error);
    if (frame.conversation !== undefined) return this.events.onNotice(frame);
    this.#lastErrorFrame = error;
    this.#retryAfter = error.retryAfter ?? this.#retryAfter;
  }

  #callReplyHandler(id: unknown, reply: OkBody | ChatError): void {
    const replyHandler = this.#replyHandlers.get(id as number);
    this.#replyHandlers.delete(id as number);
    replyHandler?.(reply);
  }

  #failUnanswered(error: ChatError): void {
    this.#writeQueue?.failAll(error);
    const waitingHandlers = [...this.#replyHandlers.values()];
    this.#replyHandlers.clear();
    for (const replyHandler of waitingHandlers) replyHandler(error);
  }

  /** Ends the current state (its socket, timer or token request) and enters the next state. */
  #enterState(next: State): void {
    const state = this.#state;
    this.#state = next;
    this.#answerDeadline = Infinity;
    this.#timeoutCheck.clear();
    if (state.at === "requesting-token") state.abortController.abort();
    if (state.at === "waiting") this.clock.clearTimeout(state.timer);
    if ("socket" in state) {
      state.socket.onopen = state.socket.onmessage = state.socket.onclose = null;
      state.socket.close();
    }
  }

  #onClose(code: number | undefined, reason: string): void {
    const decision = decideRetry({
      code,
      reason,
      lastError: this.#lastErrorFrame,
      retryAfter: this.#retryAfter,
      isRenewable: this.#tokens.isRenewable,
      isRenewed: this.#tokenWasRenewed,
    });
    // If a proxy hides the close code, the `error` frame before it has the reason.
    const refused = code === CLOSE_UNAUTHORIZED || this.#lastErrorFrame?.code === "unauthorized";
    if (refused || isTokenRefusal(code)) this.#tokens.dropToken();
    this.#tokenWasRenewed ||= refused;
    this.#onOffline({ ...decision, code });
  }

  /** Handles that there is no connection: sets the status to `offline`, and plans the next attempt unless the loss is final. */
  #onOffline(loss: {
    reason?: string;
    error?: ChatError | undefined;
    isFinal: boolean;
    waitMs?: number | undefined;
    code?: number | undefined;
  }): void {
    const { error, isFinal, waitMs, code } = loss;
    const reason = loss.reason ?? error?.message ?? NO_CONNECTION_REASON;
    const state = this.#state;
    if (state.at === "online" && this.clock.now() - state.since > BACKOFF_RESET_AFTER_MS) this.#failedAttempts = 0;
    const retryIn = retryDelay(this.#failedAttempts++, waitMs);
    this.#enterState({ at: "ended" });
    if (!isFinal) this.#scheduleAttempt(retryIn, waitMs !== undefined);
    this.log(
      isFinal ? "offline, for good:" : `offline, next attempt in ${Math.round(retryIn)} ms:`,
      reason,
      code ?? "",
    );
    this.#lastErrorFrame = this.#retryAfter = undefined;
    this.status.set(compact({ state: "offline", reason, code, error, retryIn: isFinal ? undefined : retryIn }));
    this.#failUnanswered(localError("offline", reason, error));
    this.events.onOffline();
  }

  #scheduleAttempt(milliseconds: number, isRequestedByServer: boolean): void {
    const timer = this.clock.setTimeout(() => this.#startAttempt(), milliseconds);
    this.#state = { at: "waiting", timer, byServer: isRequestedByServer };
  }

  #onTimeoutCheck(): void {
    this.#timeoutCheck.set(TIMEOUT_CHECK_INTERVAL_MS);
    this.#checkTimeouts();
  }

  #recordFrameTime(): void {
    this.#lastFrameAt = this.clock.now();
    this.#lastFrameWallTime = this.clock.wall();
  }

  /** Checks whether an answer is late, whether a ping is due, and whether the device slept. */
  #checkTimeouts(): void {
    const isAnswerLate = () => this.clock.now() > this.#answerDeadline;
    // When a frozen page continues, this timer may run before the frames that arrived meanwhile are handled: wait for them.
    if (isAnswerLate())
      return void this.clock.setTimeout(() => isAnswerLate() && this.#onClose(undefined, "no answer"), 100);
    if (!this.online || this.#answerDeadline !== Infinity) return;
    const silentMs = this.clock.now() - this.#lastFrameAt;
    // On some platforms the clock that users cannot set stops while the device sleeps, but the wall clock does not.
    const wasSuspended = this.clock.wall() - this.#lastFrameWallTime - silentMs > 2 * TIMEOUT_CHECK_INTERVAL_MS;
    if (wasSuspended || silentMs > PING_AFTER_MS)
      this.#sendPing(wasSuspended ? FOREGROUND_ANSWER_TIMEOUT_MS : ANSWER_TIMEOUT_MS);
  }

  #sendPing(timeout: number): void {
    this.#answerDeadline = Math.min(this.#answerDeadline, this.clock.now() + timeout);
    this.command({ type: "ping" }, () => {});
    this.#timeoutCheck.reset(Math.min(TIMEOUT_CHECK_INTERVAL_MS, timeout + 100));
  }

  /** Handles that the page is visible again or the network is back. */
  #onNetworkEvent(event: "online" | "visible"): void {
    this.log(event === "online" ? "the network is back" : "the app is in front");
    const state = this.#state;
    if (state.at === "online") return this.#sendPing(FOREGROUND_ANSWER_TIMEOUT_MS);
    // An event of the platform does not shorten a delay that the server requested.
    if (state.at !== "waiting" || state.byServer) return;
    if ((this.options.network ?? browserNetwork).visible()) return this.#startAttempt();
    this.clock.clearTimeout(state.timer);
    this.#scheduleAttempt(Math.random() * MAX_ONLINE_JITTER_MS, false);
  }
}

const closedError = () => localError("closed", "the chat was closed");

/** The length of a text in UTF-8, in bytes. */
const utf8Length = (text: string): number => encodeURIComponent(text).replace(/%../g, "_").length;

/** Whether a text has more than `bytes` bytes. Most texts are so short that they need no exact count. */
const isLongerThan = (text: string, bytes: number): boolean =>
  text.length > bytes || (text.length * 3 > bytes && utf8Length(text) > bytes);

/** The error for a command that is too large; names its longest field. */
function tooLargeError(command: Command, bytes: number): ChatError {
  const lengths = Object.entries(command).map(([name, value]) => [JSON.stringify(value)?.length ?? 0, name] as const);
  const [, field] = lengths.reduce((longest, next) => (next[0] > longest[0] ? next : longest));
  const message = `\`${field}\` is too long: the server takes at most ${bytes} bytes at once`;
  return new ChatError({ code: "too_large", message, retryable: false, field });
}
