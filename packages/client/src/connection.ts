// The connection to the server: one WebSocket at a time, which is replaced after it is lost.

import { Alarm, type Clock, type Timer } from "./clock.js";
import { compact } from "./compact.js";
import { browserNetwork } from "./connection/network.js";
import { delay, judge, NO_CONNECTION, refusesToken, UNAUTHORIZED } from "./connection/retry.js";
import { type Credentials, TokenSource } from "./connection/token.js";
import { type Done, Writes } from "./connection/writes.js";
import { ChatError, failure } from "./error.js";
import type { Command, Failure, OkBody, ServerFrame, Welcome } from "./protocol.js";
import { Value } from "./store.js";
import { isStored } from "./stored.js";
import type { ChatOptions, ChatStatus } from "./types.js";
import { wellFormedJson } from "./well-formed.js";

export { NO_CONNECTION };

/** Milliseconds without a frame after which the client sends a `ping`, because browsers do not show the server's pings. */
const PING_AFTER = 25_000;
/** Milliseconds within which a frame must arrive after a `ping`, and `welcome` after the connection was opened. */
const ANSWER_TIMEOUT = 10_000;
/** Milliseconds within which a frame must arrive after a `ping` that checks a connection for which a user may be waiting. */
const ANSWER_TIMEOUT_IN_FRONT = 4_000;
/** Milliseconds between two checks of the time-outs. Background pages may check only once a minute, which is also correct. */
const CHECK_INTERVAL = 5_000;
/** A connection that lasted this many milliseconds resets the backoff. */
const BACKOFF_RESET = 10_000;
/** Milliseconds over which hidden pages spread their reconnects when the network returns. */
const ONLINE_JITTER = 1_000;

/** A frame that the server sends without a command. */
export type ServerNotice = Exclude<ServerFrame, { type: "welcome" | "ok" | "pong" | "bye" }>;

export interface ConnectionEvents {
  /** Returns the cursors for `hello`, in at most this many bytes. */
  cursors(bytes: number): Record<string, number>;
  /** The user that the token names. The server may name the user differently. */
  onUser(user: string): void;
  onWelcome(frame: Welcome): void;
  onNotice(frame: ServerNotice): void;
  onLost(): void;
  /** Reports an exception of the SDK or of the app that was thrown while a frame was handled. */
  report(error: ChatError): void;
}

type State =
  | { at: "idle" }
  | { at: "asking"; abort: AbortController }
  | { at: "opening"; socket: WebSocket }
  | { at: "online"; socket: WebSocket; since: number }
  | { at: "waiting"; timer: Timer; bidden: boolean }
  | { at: "ended" };

/** Writes a line about the connection, for the option `debug`. */
export type Log = (line: string, ...details: unknown[]) => void;

export class Connection {
  readonly status = new Value<ChatStatus>({ state: "idle" });
  #state: State = { at: "idle" };
  #tokens: TokenSource;
  #failures = 0;
  /** Whether a new token was requested after the server refused the previous one, since the last `welcome`. */
  #renewed = false;
  #waiting = new Map<number, Done>();
  #nextId = 1;
  /** The writes of the current connection that the server has neither stored nor refused for good. */
  #writes: Writes | undefined;
  /** When the last frame was received: by the clock that users cannot set, and by the wall clock. */
  #received = 0;
  #receivedWall = 0;
  #deadline = Infinity;
  #retryAfter: number | undefined;
  /** The last `error` frame, if no other frame came after it: the reason of a close that follows. */
  #error: ChatError | undefined;
  #ticks: Alarm;
  #closed = false;
  #helloBytes = 8_192;
  #frameBytes = Infinity;
  /** Ends the subscription to network events, which begins with the first attempt: an unused chat can be garbage-collected. */
  #unsubscribe: (() => void) | undefined;

  constructor(
    readonly url: string,
    readonly options: ChatOptions,
    readonly clock: Clock,
    readonly events: ConnectionEvents,
    readonly log: Log,
  ) {
    this.#ticks = new Alarm(clock, () => this.#tick());
    this.#tokens = new TokenSource(options, clock, (user) => events.onUser(user));
  }

  get online(): boolean {
    return this.#state.at === "online";
  }

  /**
   * Sends a command; `done` is called once, before the next frame is handled, and at the latest when the connection is lost.
   * A write that the server refuses as retryable is sent again, in the same order, for as long as `wanted` returns true.
   */
  command(command: Command, done: Done, wanted = () => true): void {
    if (!this.online) return done(this.#closed ? closed() : failure("offline", NO_CONNECTION));
    const id = this.#nextId++;
    if (isStored(command.type)) this.#writes!.add({ command, done, wanted, n: id });
    else this.#say(id, command, done);
  }

  #say(id: number, command: Command, done: Done): void {
    let frame: string;
    try {
      frame = wellFormedJson({ ...command, id });
    } catch (error) {
      return done(failure("invalid", `this command is not JSON: ${String(error)}`, error));
    }
    // The server would close the connection because of this frame, so the command fails here, asynchronously as if it was sent.
    if (isLonger(frame, this.#frameBytes)) return queueMicrotask(() => done(tooLarge(command, this.#frameBytes)));
    this.#waiting.set(id, done);
    this.#write(command.type, frame, id);
  }

  /** Sends a command and returns a promise of its answer. */
  request<T extends OkBody>(command: Command, wanted?: () => boolean): Promise<T> {
    return new Promise((resolve, reject) => {
      this.command(command, (reply) => (reply instanceof ChatError ? reject(reply) : resolve(reply as T)), wanted);
    });
  }

  /** Handles the first use of the chat: connects, unless the app has set `start: false`. */
  use(): void {
    if (this.options.start !== false) this.start();
  }

  /** Connects for the first time; later calls have no effect. */
  start(): void {
    if (this.#state.at === "idle") this.#open();
  }

  /** Connects at once, without the rest of the delay. If a token is being requested, requests it again. */
  reconnect(): void {
    const { at } = this.#state;
    if (at !== "opening" && at !== "online") this.#open();
  }

  /** Closes the connection, because a request had no answer within its time-out. */
  giveUp(): void {
    if (this.online) this.#onClose(undefined, "no answer");
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#unsubscribe?.();
    this.#leave({ at: "idle" });
    this.status.set({ state: "idle" });
    this.#failWaiting(closed());
    this.log("closed");
  }

  #open(): void {
    if (this.#closed) return;
    const network = this.options.network ?? browserNetwork;
    this.#unsubscribe ??= network.subscribe((event) => this.#onNetwork(event));
    const abort = new AbortController();
    this.#leave({ at: "asking", abort });
    this.status.set({ state: "connecting" });
    this.log("asking for the token");
    const current = () => this.#state.at === "asking" && this.#state.abort === abort;
    this.#tokens.get(abort.signal).then(
      (credentials) => current() && this.#connect(credentials),
      (error: unknown) => {
        if (!current()) return;
        const final = (error as Partial<ChatError>).code === "unauthorized" || !this.#tokens.renewable;
        this.#offline({ error: error instanceof ChatError ? error : failure("unauthorized", String(error)), final });
      },
    );
  }

  #connect(credentials: Credentials): void {
    const Socket = this.options.WebSocket ?? globalThis.WebSocket;
    let socket: WebSocket;
    this.log("connecting to", this.url);
    try {
      socket = new Socket(this.url, "switchboard.v1");
    } catch (error) {
      // The platform has no WebSocket, or forbids it on this page, so another attempt would fail the same way.
      return this.#offline({ error: failure("offline", String(error), error), final: true });
    }
    this.#state = { at: "opening", socket };
    this.#error = this.#retryAfter = undefined;
    this.#stamp();
    this.#deadline = this.clock.now() + ANSWER_TIMEOUT;
    this.#ticks.reset(CHECK_INTERVAL);
    const current = () => "socket" in this.#state && this.#state.socket === socket;
    socket.onopen = () => this.#hello(credentials);
    socket.onmessage = ({ data }) => current() && this.#receive(String(data));
    socket.onclose = ({ code, reason }) => current() && this.#onClose(code, reason);
    // Ignored, because a `close` event follows every `error` event, and is handled.
    socket.onerror = () => {};
  }

  #hello(credentials: Credentials): void {
    const { device } = this.options;
    const hello = { type: "hello" as const, ...credentials, ...(device !== undefined && { device }) };
    const bytes = this.#helloBytes - utf8Length(JSON.stringify(hello)) - '"cursors":{},'.length;
    this.#write(hello.type, wellFormedJson({ ...hello, cursors: this.events.cursors(bytes) }));
  }

  #write(type: string, frame: string, id: number | "" = ""): void {
    this.log(`→ ${type}`, id);
    if ("socket" in this.#state) this.#state.socket.send(frame);
  }

  #receive(data: string): void {
    this.#stamp();
    if (this.online) this.#deadline = Infinity;
    try {
      this.#handle(JSON.parse(data) as ServerFrame);
    } catch (error) {
      // The exception is only reported, so that later frames are still handled.
      this.events.report(failure("internal", String(error), error));
    }
  }

  #handle(frame: ServerFrame): void {
    this.log(`← ${frame.type}`, "id" in frame ? frame.id : "");
    if (frame.type !== "error" && frame.type !== "bye") this.#error = undefined;
    switch (frame.type) {
      case "welcome":
        return this.#onWelcome(frame);
      case "bye":
        this.#retryAfter = frame.retry_after;
        return;
      case "ok":
      case "pong":
        return this.#answer(frame.id, frame as OkBody);
      case "error":
        return this.#onError(frame);
      default:
        this.events.onNotice(frame);
    }
  }

  #onWelcome(frame: Welcome): void {
    if (!("socket" in this.#state)) return;
    this.#state = { at: "online", socket: this.#state.socket, since: this.clock.now() };
    const numbers = frame.features?.includes("numbers");
    this.#writes = new Writes(this.clock, ({ n, command }, after, done) =>
      this.#say(n, numbers ? Object.assign({ n, after }, command) : command, done),
    );
    this.#helloBytes = frame.limits.hello_frame;
    this.#frameBytes = frame.limits.frame;
    this.#deadline = Infinity;
    this.#renewed = false;
    this.status.set({ state: "online" });
    this.events.onWelcome(frame);
  }

  #onError(frame: Failure & { type: "error" }): void {
    const error = new ChatError(frame);
    if (frame.id !== undefined) return this.#answer(frame.id, error);
    if (frame.conversation !== undefined) return this.events.onNotice(frame);
    this.#error = error;
    this.#retryAfter = error.retryAfter ?? this.#retryAfter;
  }

  #answer(id: unknown, reply: OkBody | ChatError): void {
    const done = this.#waiting.get(id as number);
    this.#waiting.delete(id as number);
    done?.(reply);
  }

  #failWaiting(error: ChatError): void {
    this.#writes?.end(error);
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const done of waiting) done(error);
  }

  /** Ends the current state (its socket, timer or token request) and enters the next state. */
  #leave(next: State): void {
    const state = this.#state;
    this.#state = next;
    this.#deadline = Infinity;
    this.#ticks.clear();
    if (state.at === "asking") state.abort.abort();
    if (state.at === "waiting") this.clock.clearTimeout(state.timer);
    if ("socket" in state) {
      state.socket.onopen = state.socket.onmessage = state.socket.onclose = null;
      state.socket.close();
    }
  }

  #onClose(code: number | undefined, reason: string): void {
    const verdict = judge({
      code,
      reason,
      error: this.#error,
      retryAfter: this.#retryAfter,
      renewable: this.#tokens.renewable,
      renewed: this.#renewed,
    });
    // If a proxy hides the close code, the `error` frame before it has the reason.
    const refused = code === UNAUTHORIZED || this.#error?.code === "unauthorized";
    if (refused || refusesToken(code)) this.#tokens.drop();
    this.#renewed ||= refused;
    this.#offline({ ...verdict, code });
  }

  /** Handles that there is no connection: sets the status to `offline`, and plans the next attempt unless the loss is final. */
  #offline(why: {
    reason?: string;
    error?: ChatError | undefined;
    final: boolean;
    wait?: number | undefined;
    code?: number | undefined;
  }): void {
    const { error, final, wait, code } = why;
    const reason = why.reason ?? error?.message ?? NO_CONNECTION;
    const state = this.#state;
    if (state.at === "online" && this.clock.now() - state.since > BACKOFF_RESET) this.#failures = 0;
    const retryIn = delay(this.#failures++, wait);
    this.#leave({ at: "ended" });
    if (!final) this.#wait(retryIn, wait !== undefined);
    this.log(final ? "offline, for good:" : `offline, next attempt in ${Math.round(retryIn)} ms:`, reason, code ?? "");
    this.#error = this.#retryAfter = undefined;
    this.status.set(compact({ state: "offline", reason, code, error, retryIn: final ? undefined : retryIn }));
    this.#failWaiting(failure("offline", reason, error));
    this.events.onLost();
  }

  #wait(milliseconds: number, bidden: boolean): void {
    const timer = this.clock.setTimeout(() => this.#open(), milliseconds);
    this.#state = { at: "waiting", timer, bidden };
  }

  #tick(): void {
    this.#ticks.set(CHECK_INTERVAL);
    this.#look();
  }

  #stamp(): void {
    this.#received = this.clock.now();
    this.#receivedWall = this.clock.wall();
  }

  /** Checks whether an answer is late, whether a ping is due, and whether the device slept. */
  #look(): void {
    const late = () => this.clock.now() > this.#deadline;
    // When a frozen page continues, this timer may run before the frames that arrived meanwhile are handled: wait for them.
    if (late()) return void this.clock.setTimeout(() => late() && this.#onClose(undefined, "no answer"), 100);
    if (!this.online || this.#deadline !== Infinity) return;
    const silent = this.clock.now() - this.#received;
    // On some platforms the clock that users cannot set stops while the device sleeps, but the wall clock does not.
    const slept = this.clock.wall() - this.#receivedWall - silent > 2 * CHECK_INTERVAL;
    if (slept || silent > PING_AFTER) this.#ping(slept ? ANSWER_TIMEOUT_IN_FRONT : ANSWER_TIMEOUT);
  }

  #ping(timeout: number): void {
    this.#deadline = Math.min(this.#deadline, this.clock.now() + timeout);
    this.command({ type: "ping" }, () => {});
    this.#ticks.reset(Math.min(CHECK_INTERVAL, timeout + 100));
  }

  /** Handles that the page is visible again or the network is back. */
  #onNetwork(event: "online" | "visible"): void {
    this.log(event === "online" ? "the network is back" : "the app is in front");
    const state = this.#state;
    if (state.at === "online") return this.#ping(ANSWER_TIMEOUT_IN_FRONT);
    // An event of the platform does not shorten a delay that the server requested.
    if (state.at !== "waiting" || state.bidden) return;
    if ((this.options.network ?? browserNetwork).visible()) return this.#open();
    this.clock.clearTimeout(state.timer);
    this.#wait(Math.random() * ONLINE_JITTER, false);
  }
}

const closed = () => failure("closed", "the chat was closed");

/** The length of a text in UTF-8, in bytes. */
const utf8Length = (text: string): number => encodeURIComponent(text).replace(/%../g, "_").length;

/** Whether a text has more than `bytes` bytes. Most texts are so short that they need no exact count. */
const isLonger = (text: string, bytes: number): boolean =>
  text.length > bytes || (text.length * 3 > bytes && utf8Length(text) > bytes);

/** The error for a command that is too large; names its longest field. */
function tooLarge(command: Command, bytes: number): ChatError {
  const lengths = Object.entries(command).map(([name, value]) => [JSON.stringify(value)?.length ?? 0, name] as const);
  const [, field] = lengths.reduce((longest, next) => (next[0] > longest[0] ? next : longest));
  const message = `\`${field}\` is too long: the server takes at most ${bytes} bytes at once`;
  return new ChatError({ code: "too_large", message, retryable: false, field });
}
