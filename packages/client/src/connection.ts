// One WebSocket at a time, replaced when it is lost.

import { ChatError, failure, UnauthorizedError } from "./error.js";
import type { Command, Failure, OkBody, ServerFrame, Welcome } from "./protocol.js";
import { Value } from "./store.js";
import type { ChatOptions, ChatStatus } from "./types.js";

/** Milliseconds of silence after which the other side is asked whether it is there. Browsers hide the server's pings. */
const PING_AFTER = 25_000;
/** Milliseconds within which anything must be heard after that, and `welcome` after opening. */
const PATIENCE = 10_000;
/** The same when the page comes to the front or the network comes back, and somebody may be looking. */
const PATIENCE_IN_FRONT = 4_000;
/** How often the clock is looked at. A page in the background may look once a minute only, and is right all the same. */
const TICK = 5_000;
/** The first and the longest wait between attempts; each is a random part of it ("full jitter"). */
const BACKOFF = 500;
const BACKOFF_MOST = 20_000;
/** A token callback that takes longer has failed. */
const TOKEN_PATIENCE = 30_000;
/** A connection that lasted so long was a good one: the next wait is short again. */
const GOOD = 10_000;

export const NO_CONNECTION = "there is no connection";

type Done = (reply: OkBody | ChatError) => void;
/** What the server says by itself. */
export type Told = Exclude<ServerFrame, { type: "welcome" | "ok" | "pong" | "bye" }>;

export interface Listener {
  /** The cursors to say in `hello`, in at most so many bytes. */
  cursors(bytes: number): Record<string, number>;
  welcome(frame: Welcome): void;
  told(frame: Told): void;
  lost(): void;
}

/** The platform's events of coming back to life, until `signal` ends it. */
function onWake(wake: () => void, signal: AbortSignal): void {
  const page = globalThis.document;
  globalThis.addEventListener?.("online", wake, { signal });
  globalThis.addEventListener?.("pageshow", wake, { signal });
  page?.addEventListener("visibilitychange", () => page.visibilityState === "visible" && wake(), { signal });
}

export class Connection {
  readonly status = new Value<ChatStatus>({ state: "idle" });
  #url: string;
  #options: ChatOptions;
  #listener: Listener;
  #socket: WebSocket | undefined;
  /** Counts attempts: what an earlier one brings is of no interest any more. */
  #attempt = 0;
  #failures = 0;
  #waiting = new Map<number, Done>();
  #nextId = 1;
  #heard = 0;
  #deadline = Infinity;
  #welcomed = 0;
  #retryAfter: number | undefined;
  #error: ChatError | undefined;
  /** That the server bade us to wait: no event of the platform's makes that shorter. */
  #bidden = false;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #ticks: ReturnType<typeof setInterval> | undefined;
  #closed = new AbortController();
  #helloBytes = 8_192;

  constructor(url: string, options: ChatOptions, listener: Listener) {
    this.#url = url;
    this.#options = options;
    this.#listener = listener;
    onWake(() => this.#wake(), this.#closed.signal);
  }

  get online(): boolean {
    return this.status.getSnapshot().state === "online";
  }

  /** Says a command; `done` is called once, before the next frame is looked at, and at the latest when the connection is lost. */
  say(command: Command, done: Done): void {
    if (!this.online) return done(failure("offline", NO_CONNECTION));
    const id = this.#nextId++;
    this.#waiting.set(id, done);
    this.#write({ ...command, id });
  }

  /** The same with a promise. */
  request<T extends OkBody>(command: Command): Promise<T> {
    return new Promise((resolve, reject) => {
      this.say(command, (reply) => (reply instanceof ChatError ? reject(reply) : resolve(reply as T)));
    });
  }

  /** Connects now, whatever was planned. */
  open(): void {
    clearTimeout(this.#retry);
    if (this.#socket || this.status.getSnapshot().state === "connecting") return;
    this.#bidden = false;
    this.status.set({ state: "connecting" });
    this.#expect(TOKEN_PATIENCE);
    this.#ticks = setInterval(() => this.#look(), TICK);
    const attempt = ++this.#attempt;
    void this.#hello().then(
      (hello) => attempt === this.#attempt && this.#connect(hello),
      (error: unknown) => {
        if (attempt !== this.#attempt) return;
        const refused = (error as Partial<ChatError> | undefined)?.code === "unauthorized";
        this.#error = error instanceof ChatError ? error : failure("offline", String(error));
        this.#lost(undefined, this.#error.message, refused);
      },
    );
  }

  close(): void {
    this.#closed.abort();
    this.#leave();
    clearTimeout(this.#retry);
    this.status.set({ state: "idle" });
  }

  async #hello(): Promise<{ token: string } | { user: string }> {
    const { token, user } = this.#options;
    if (token === undefined) {
      if (user === undefined) throw new UnauthorizedError("neither a token nor a user");
      return { user };
    }
    if (typeof token === "string") return { token };
    return { token: await token() };
  }

  #connect(who: { token: string } | { user: string }): void {
    const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
    let socket: WebSocket;
    try {
      socket = new Socket(this.#url, "switchboard.v1");
    } catch (error) {
      // There is none here, or not from this page: another attempt would end the same.
      return this.#lost(undefined, String(error), true);
    }
    this.#socket = socket;
    this.#heard = Date.now();
    this.#deadline = Infinity;
    this.#expect(PATIENCE);
    this.#error = this.#retryAfter = undefined;
    socket.onopen = () => {
      const hello: Command = { type: "hello", ...who, ...(this.#options.device && { device: this.#options.device }) };
      const room = this.#helloBytes - new TextEncoder().encode(JSON.stringify(hello)).length;
      this.#write({ ...hello, cursors: this.#listener.cursors(room - 16) });
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.#socket) return;
      this.#heard = Date.now();
      this.#deadline = this.online ? Infinity : this.#deadline;
      this.#hear(JSON.parse(data as string) as ServerFrame);
    };
    socket.onclose = ({ code, reason }) => {
      if (socket === this.#socket)
        this.#lost(code, reason, code === 1002 || (code >= 1007 && code <= 1009) || (code >= 4500 && code <= 4999));
    };
    // A close follows.
    socket.onerror = () => {};
  }

  #write(frame: object): void {
    this.#socket?.send(JSON.stringify(frame));
  }

  #hear(frame: ServerFrame): void {
    switch (frame.type) {
      case "welcome":
        this.#helloBytes = frame.limits.hello_frame;
        this.#welcomed = this.#heard;
        this.#deadline = Infinity;
        this.status.set({ state: "online" });
        return this.#listener.welcome(frame);
      case "bye":
        this.#retryAfter = frame.retry_after;
        return;
      case "ok":
      case "pong":
        return this.#answer(frame.id, frame as OkBody);
      case "error": {
        const error = new ChatError(frame as Failure);
        if (frame.id !== undefined) return this.#answer(frame.id, error);
        if (frame.conversation !== undefined) return this.#listener.told(frame);
        this.#error = error;
        this.#retryAfter = error.retryAfter ?? this.#retryAfter;
        return;
      }
      default:
        this.#listener.told(frame);
    }
  }

  #answer(id: unknown, reply: OkBody | ChatError): void {
    const done = this.#waiting.get(id as number);
    this.#waiting.delete(id as number);
    done?.(reply);
  }

  /** Lets go of the socket, in whatever state it is. */
  #leave(): void {
    const socket = this.#socket;
    this.#socket = undefined;
    this.#attempt++;
    this.#deadline = Infinity;
    clearInterval(this.#ticks);
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }

  #lost(code: number | undefined, reason: string, final = false): void {
    const welcomed = this.online;
    this.#leave();
    if (welcomed && Date.now() - this.#welcomed > GOOD) this.#failures = 0;
    const error = this.#error;
    const given = this.#retryAfter;
    const longest = Math.min(BACKOFF_MOST, BACKOFF * 2 ** this.#failures++);
    // What the server gave differs for every client already; a little more spreads those it did not tell apart.
    const retryIn = given === undefined ? Math.random() * longest : given + Math.random() * Math.min(1_000, given / 4);
    this.#bidden = given !== undefined;
    this.#retryAfter = undefined;
    const why = reason || error?.message || NO_CONNECTION;
    this.status.set({
      state: "offline",
      reason: why,
      ...(code !== undefined && { code }),
      ...(error && { error }),
      ...(!final && { retryIn }),
    });
    if (!final) this.#retry = setTimeout(() => this.open(), retryIn);
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const done of waiting) done(failure("offline", why));
    this.#listener.lost();
  }

  #look(): void {
    const now = Date.now();
    const late = () => Date.now() > this.#deadline;
    // Of a page that was frozen the clock may run before what has arrived meanwhile: that goes first.
    if (late()) setTimeout(() => late() && this.#lost(undefined, "no answer"), 100);
    else if (this.online && this.#deadline === Infinity && now - this.#heard > PING_AFTER) this.#ping(PATIENCE);
  }

  #ping(patience: number): void {
    this.#expect(patience);
    this.say({ type: "ping" }, () => {});
  }

  /** Something must be heard within so many milliseconds. */
  #expect(patience: number): void {
    this.#deadline = Math.min(this.#deadline, Date.now() + patience);
  }

  /** The page is looked at again, or the network is back. */
  #wake(): void {
    const { state, retryIn } = this.status.getSnapshot();
    if (state === "offline" && retryIn !== undefined && !this.#bidden) return this.open();
    if (state !== "online") return;
    this.#ping(PATIENCE_IN_FRONT);
    setTimeout(() => this.#look(), PATIENCE_IN_FRONT + 100);
  }
}
