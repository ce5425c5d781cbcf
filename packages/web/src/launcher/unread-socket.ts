// A small connection that only counts unread messages, so that a page need not load the chat before the user opens it. It
// reads the counts of `welcome`, then follows new messages and the user's own read cursor on other devices.

/** Milliseconds before the first retry, and the longest. Each wait is a random part of twice the last one. */
const FIRST_RETRY_MS = 1_000;
const MAX_RETRY_MS = 60_000;
/** Close codes after which another attempt with a new token may succeed, and the first of those that end the attempts. */
const TOKEN_EXPIRED = 4401;
const FIRST_FINAL_CODE = 4500;
const PROTOCOL_ERROR = 1008;

export interface Credentials {
  readonly token?: string | ((context: { signal: AbortSignal }) => string | Promise<string>) | undefined;
  readonly user?: string | undefined;
}

export interface Arrival {
  readonly conversation: string;
  readonly from: string;
  readonly text: string | undefined;
}

interface Summary {
  readonly conversation: string;
  readonly unread: number;
  readonly head: number;
}

/** The frames that matter here. */
interface Frame {
  readonly type: string;
  readonly user?: string;
  readonly conversation?: string;
  readonly conversations?: readonly Summary[];
  readonly unread?: { readonly messages: number };
  readonly seq?: number;
  readonly from?: string;
  readonly text?: string;
  readonly upto?: number;
}

/** A conversation's id: `@bob` is relative to the user. */
const idOf = (name: string, me: string): string =>
  name[0] !== "@" || name.includes(":") ? name : `@${[me, name.slice(1)].sort(compareBytes).join(":")}`;

const compareBytes = (one: string, other: string) => (one < other ? -1 : 1);

export class UnreadSocket {
  #url: string;
  #credentials: () => Credentials;
  /** The conversation to count; all if absent. */
  #only: () => string | undefined;
  #onCount: (count: number, conversations: Record<string, number>) => void;
  #onArrival: (arrival: Arrival) => void;
  #socket: WebSocket | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #retry = FIRST_RETRY_MS;
  #closed = false;
  #me = "";
  #head = new Map<string, number>();
  #unread = new Map<string, number>();
  /** Unread messages of conversations that are not on the first page of `welcome`. */
  #elsewhere = 0;

  constructor(
    server: string,
    credentials: () => Credentials,
    only: () => string | undefined,
    onCount: (count: number, conversations: Record<string, number>) => void,
    onArrival: (arrival: Arrival) => void,
  ) {
    this.#url = `${server.replace(/^http/, "ws").replace(/\/$/, "")}/v1/ws`;
    this.#credentials = credentials;
    this.#only = only;
    this.#onCount = onCount;
    this.#onArrival = onArrival;
    void this.#connect();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#socket?.close();
  }

  async #connect(): Promise<void> {
    try {
      const { token, user } = this.#credentials();
      const abort = new AbortController();
      const known = typeof token === "function" ? await token({ signal: abort.signal }) : token;
      if (this.#closed) return;
      const socket = new WebSocket(this.#url);
      this.#socket = socket;
      socket.onopen = () =>
        socket.send(JSON.stringify({ type: "hello", ...(known ? { token: known.trim() } : { user }) }));
      socket.onmessage = ({ data }) => this.#onFrame(JSON.parse(String(data)) as Frame);
      socket.onclose = ({ code }) => this.#onClose(code);
    } catch {
      // The page's token function failed, so it is called again later.
      this.#later();
    }
  }

  #onClose(code: number): void {
    if (this.#closed || code === PROTOCOL_ERROR || code >= FIRST_FINAL_CODE) return;
    if (code === TOKEN_EXPIRED && typeof this.#credentials().token !== "function") return;
    this.#later();
  }

  #later(): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => void this.#connect(), this.#retry * (0.5 + Math.random() / 2));
    this.#retry = Math.min(MAX_RETRY_MS, this.#retry * 2);
  }

  #onFrame(frame: Frame): void {
    const { type, conversation = "", seq = 0 } = frame;
    if (type === "welcome") this.#onWelcome(frame);
    else if (type === "message") this.#onMessage(conversation, seq, frame);
    else if (type === "read" && frame.user === this.#me) {
      // What was read on another device; the rest of the count is exact again with the next `welcome`.
      if ((frame.upto ?? 0) >= (this.#head.get(conversation) ?? 0)) this.#unread.delete(conversation);
    } else return;
    this.#report();
  }

  #onWelcome({ user = "", conversations = [], unread }: Frame): void {
    this.#retry = FIRST_RETRY_MS;
    this.#me = user;
    this.#head = new Map(conversations.map(({ conversation, head }) => [conversation, head]));
    this.#unread = new Map(conversations.map(({ conversation, unread }) => [conversation, unread]));
    const shown = conversations.reduce((sum, { unread }) => sum + unread, 0);
    this.#elsewhere = Math.max(0, (unread?.messages ?? shown) - shown);
  }

  #onMessage(conversation: string, seq: number, { from = "", text }: Frame): void {
    if (seq <= (this.#head.get(conversation) ?? 0)) return;
    this.#head.set(conversation, seq);
    if (from === this.#me) return;
    this.#unread.set(conversation, (this.#unread.get(conversation) ?? 0) + 1);
    const only = this.#only();
    if (!only || idOf(only, this.#me) === conversation) this.#onArrival({ conversation, from, text });
  }

  #report(): void {
    const only = this.#only();
    const id = only && idOf(only, this.#me);
    const counts = [...this.#unread].filter(([name, count]) => count > 0 && (!id || name === id));
    const count = counts.reduce((sum, [, one]) => sum + one, id ? 0 : this.#elsewhere);
    this.#onCount(count, Object.fromEntries(counts));
  }
}
