// A server that a test scripts, over sockets without a network, and a clock that a test moves.

/** The limits in `welcome` that the SDK uses. */
const DEFAULT_LIMITS = {
  frame: 65_536,
  text: 16_384,
  hello_frame: 8_192,
  frames_per_connection: 100,
  page: 200,
  replay: 1_000,
  signal_room: 100,
  watch: 200,
};

/** Delivers each frame or event of a socket in its own task, as a network does. */
const runInNextTurn = (act) => setImmediate(act);

/** Waits until frames in flight are delivered and promises are settled, without moving the clock. */
export async function runPendingTasks(turns = 30) {
  for (let n = 0; n < turns; n++) await new Promise(runInNextTurn);
}

/**
 * Answers `hello` with `welcome`, and every other command with the result of its handler (see `on`), or with `ok`. A handler
 * returns the fields of the answer, with `type: "error"` for an error, or nothing if it answers by itself.
 */
export class FakeServer {
  /** Every socket that a client opened, and every frame that arrived, oldest first. */
  sockets = [];
  frames = [];
  /** Whether sockets open; otherwise they close with 1006. */
  reachable = true;
  #handlers = new Map();

  constructor({ user = "alice", limits = {}, conversations = [], ...more } = {}) {
    this.welcome = {
      type: "welcome",
      user,
      connection: "c1",
      server: "switchboard/fake",
      limits: { ...DEFAULT_LIMITS, ...limits },
      conversations,
      more: false,
      ...more,
    };
    this.on("hello", () => this.welcome);
    this.on("ping", () => ({ type: "pong" }));
    const emptyPage = { head: 0, more: false };
    this.on("history", ({ conversation }) => ({ conversation, messages: [], ...emptyPage }));
    this.on("sync", ({ conversation }) => ({ conversation, events: [], ...emptyPage }));
    this.on("members", ({ conversation }) => ({ conversation, members: [], more: false }));
    this.on("conversations", () => ({ conversations: [], more: false }));
    const server = this;
    this.WebSocket = class extends FakeSocket {
      constructor(url, protocols) {
        super(server, url, protocols);
      }
    };
  }

  on(type, handler) {
    this.#handlers.set(type, handler);
    return this;
  }

  /** The frames of a type that have arrived so far. */
  sent(type) {
    return this.frames.filter((frame) => frame.type === type);
  }

  /** The socket that was opened last. */
  get socket() {
    return this.sockets.at(-1);
  }

  /** Pushes frames on the last socket. */
  say(...frames) {
    for (const frame of frames) this.socket.say(frame);
  }

  /** Ends the last connection. 1006 means that the network failed. */
  cut(code = 1006, reason = "") {
    this.socket.end(code, reason);
  }

  receive(frame, socket) {
    this.frames.push(frame);
    const handler = this.#handlers.get(frame.type);
    const answer = handler ? handler(frame, socket) : {};
    if (answer) socket.say({ type: "ok", ...(frame.id !== undefined && { id: frame.id }), ...answer });
  }
}

class FakeSocket {
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;
  readyState = 0;
  /** While `deaf`, the socket stays open but neither sends nor receives: a half-open connection. */
  deaf = false;

  constructor(server, url, protocols) {
    Object.assign(this, { server, url, protocols });
    server.sockets.push(this);
    const { reachable } = server;
    runInNextTurn(() => {
      if (this.readyState !== 0 || this.deaf) return;
      if (!reachable) return this.end(1006, "");
      this.readyState = 1;
      this.onopen?.({});
    });
  }

  send(text) {
    if (this.readyState !== 1) throw new DOMException("the socket is not open", "InvalidStateError");
    if (!this.deaf) runInNextTurn(() => this.readyState === 1 && this.server.receive(JSON.parse(text), this));
  }

  say(frame) {
    if (!this.deaf) runInNextTurn(() => this.readyState === 1 && this.onmessage?.({ data: JSON.stringify(frame) }));
  }

  end(code, reason) {
    runInNextTurn(() => {
      if (this.readyState === 3) return;
      this.readyState = 3;
      this.onclose?.({ code, reason });
    });
  }

  close(code = 1000, reason = "") {
    if (this.readyState < 2) this.end(code, reason);
  }
}

/** Time that stands still until a test moves it. Give it to `connect` as `clock`. */
export class FakeClock {
  #now = 0;
  #timers = new Map();
  #next = 1;

  /** `wall`: the wall clock's time at the beginning. A test may set it, as users do. */
  constructor(wall = Date.UTC(2026, 0, 1)) {
    this.offset = wall;
  }

  now = () => this.#now;
  wall = () => this.offset + this.#now;

  setTimeout = (act, delay = 0) => {
    const id = this.#next++;
    this.#timers.set(id, { at: this.#now + Math.max(0, delay), act });
    return id;
  };

  clearTimeout = (id) => void this.#timers.delete(id);

  /** The number of pending timers. */
  get timers() {
    return this.#timers.size;
  }

  /** Advances the time, fires every timer that is due, and waits for the effects of each. */
  async advance(milliseconds) {
    const dueAt = this.#now + milliseconds;
    await runPendingTasks();
    for (;;) {
      let due;
      for (const [id, { at }] of this.#timers) if (at <= dueAt && (!due || at < this.#timers.get(due).at)) due = id;
      if (!due) break;
      const { at, act } = this.#timers.get(due);
      this.#timers.delete(due);
      this.#now = Math.max(this.#now, at);
      act();
      await runPendingTasks();
    }
    this.#now = dueAt;
  }
}
