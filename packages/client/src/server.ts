// The entry point for back ends of an app: makes tokens for users, and sends commands in their names over HTTP. It needs
// `fetch` and WebCrypto, so it works in Node, Bun, Deno and in workers.

import { ChatError } from "@switchboard/client";
import { isOfTheApplication, type ApplicationCalls, type FeedEntry, type SendResult } from "./application-calls.js";
import type {
  Command,
  ConversationId,
  Event,
  Failure,
  HeldBody,
  OkBody,
  ProfileBody,
  Seq,
  StoredBody,
  Timestamp,
  UserId,
  UsersBody,
  BlocksBody,
} from "./protocol.js";
import type { Draft, DraftData, WithData } from "./types.js";

export type {
  ApplicationCalls,
  FeedEntry,
  ImportedMessage,
  ImportLine,
  ListedBan,
  ListedReport,
  ListedRoom,
  ListedUser,
  NewWebhook,
  ProfileChange,
  SendResult,
  UserUnread,
  Webhook,
  WebhookAnswer,
  WebhookSecret,
} from "./application-calls.js";

/** The shortest secret that the server accepts, in bytes. */
const MIN_SECRET_BYTES = 32;
/** The default lifetime of a token, in seconds. */
const DEFAULT_EXPIRES_IN_SECONDS = 3_600;
/** The longest lifetime of a token, in seconds: a larger number is probably one of milliseconds. */
const MAX_EXPIRES_IN_SECONDS = 366 * 86_400;
/** The default time-out of a call, in milliseconds. */
const DEFAULT_TIMEOUT_MS = 30_000;
/** The longest delay of a timer, in milliseconds: platforms fire timers with longer delays at once. */
const MAX_TIMER_DELAY_MS = 2 ** 31 - 1;
/** The longest time that the server waits for an entry of the feed, and what such a call may take beyond it, in milliseconds. */
const MAX_WAIT_MS = 25_000;
const CALL_MARGIN_MS = 10_000;
/** The first and the longest delay before a message is sent again, in milliseconds. */
const INITIAL_RETRY_DELAY_MS = 200;
const MAX_RETRY_DELAY_MS = 5_000;

export interface TokenClaims {
  /** The user's id, for `sub`. */
  user: string;
  /** The token's lifetime in seconds, an hour by default. A client requests another token in time. */
  expiresIn?: number;
  /** The same values as `issuer` and `audience` in the server's configuration, if they are set there. */
  issuer?: string;
  audience?: string;
  /** Additional claims of the application. */
  claims?: Record<string, unknown>;
}

/** The server's address and the caller's credentials. */
export interface Access {
  /** The server, as `https://chat.example`. */
  url: string;
  /** An API key (`switchboard key create`), or a user's token. */
  key: string;
  /** With an API key: the user in whose name the command is executed. Calls that concern the application do without. */
  as?: string;
  /** The time-out of the call in milliseconds, 30 s by default. */
  timeout?: number;
  /** Ends the call early. */
  signal?: AbortSignal;
  /** Another `fetch`, for a proxy or a test. */
  fetch?: typeof fetch;
}

/** A message, and its idempotency key. */
export interface ServerMessage extends Draft {
  /** `@alice`, `#general`, or a conversation id. */
  to: string;
  /**
   * The idempotency key: messages with the same key are stored once, for example the number of an order. Without it a random key
   * is used, so that only the retries of this call are recognized.
   */
  messageKey?: string | undefined;
}

/** One direct message to each of up to 1,000 users. */
export interface SendMany {
  users: UserId[];
  /** The idempotency key, at most 63 characters: a call that is repeated sends only what was not stored. */
  key: string;
  text?: string;
  data?: DraftData;
}

/** The commands over HTTP, with the fields in docs/protocol.md. */
export type HttpCommand =
  | Exclude<Command, { type: "hello" | "token" | "watch" }>
  | ({ type: "send_many" } & SendMany)
  | { [T in keyof ApplicationCalls]: { type: T } & ApplicationCalls[T]["fields"] }[keyof ApplicationCalls];

type WithDraftData<T> = { [K in keyof T]: K extends "data" ? DraftData | Extract<T[K], null> | undefined : T[K] };

/** The fields of a command. */
export type FieldsOf<T extends HttpCommand["type"]> = T extends keyof ApplicationCalls
  ? ApplicationCalls[T]["fields"]
  : WithDraftData<Omit<Extract<HttpCommand, { type: T }>, "type">>;

/** The server's answer to each command: the fields of its `ok`. */
export type AnswerOf<T extends HttpCommand["type"]> = T extends keyof ApplicationCalls
  ? ApplicationCalls[T]["answer"]
  : T extends "send_many"
    ? { results: SendResult[] }
    : T extends "sync"
      ? WithData<Extract<OkBody, { events: unknown }>>
      : T extends "history"
        ? WithData<Extract<OkBody, { messages: unknown }>>
        : T extends "conversations"
          ? WithData<Extract<OkBody, { conversations: unknown }>>
          : T extends "members"
            ? Extract<OkBody, { members: unknown }>
            : T extends "blocks"
              ? BlocksBody
              : T extends "users" | "find_users"
                ? WithData<UsersBody>
                : T extends "profile"
                  ? ProfileBody
                  : T extends "read" | "received"
                    ? Extract<OkBody, { upto: unknown }>
                    : T extends "ping" | "typing" | "block"
                      ? unknown
                      : T extends "send"
                        ? WithData<StoredBody | HeldBody>
                        : WithData<StoredBody>;

/** The server's answer to a message. */
export interface Sent {
  conversation: ConversationId;
  /** The message's number and time; absent while the message is held. */
  seq?: Seq;
  at?: Timestamp;
  /** Whether the message is held: it is on stable storage, and waits for a moderator. */
  held?: boolean;
  /** Whether a message with the same key was stored before. */
  duplicate?: boolean;
  /** The stored event, if the application has changed the message. */
  event?: WithData<Event>;
}

/** Where a reader of the feed begins, and what it reads. */
export interface FeedOptions extends Omit<Access, "as" | "timeout"> {
  /** The `id` of the last entry that was handled; `"0"` for the beginning, `"now"` for the end. */
  after: string;
  /** Only these types of entries. */
  types?: string[];
  /** The most entries of a call. */
  limit?: number;
  /** Whether to wait at the end of the feed. With `false` the loop ends there. */
  follow?: boolean;
}

/**
 * Makes a token for a user (a JWT with HS256). `secret` is the one of the server's `[auth]`, at least 32 bytes.
 *
 * Send the token over HTTPS, and only to the browser of the user whose identity you have checked. A line break at the end of a
 * `secret` string is ignored, so the secret may be the content of a file.
 *
 * @throws ChatError `invalid` for a secret, a user or a lifetime that the server does not accept.
 */
export async function mintToken(secret: string | Uint8Array, of: TokenClaims): Promise<string> {
  const { user, expiresIn = DEFAULT_EXPIRES_IN_SECONDS, issuer, audience, claims } = of ?? {};
  const bytes = typeof secret === "string" ? utf8Bytes(secret.replace(/\r?\n$/, "")) : secret;
  if (!(bytes?.length >= MIN_SECRET_BYTES)) throw invalidError(`a secret has at least ${MIN_SECRET_BYTES} bytes`);
  if (!user) throw invalidError("a token needs a user");
  if (!(expiresIn > 0 && expiresIn <= MAX_EXPIRES_IN_SECONDS))
    throw invalidError("expiresIn counts seconds, up to a year");
  // The server needs `iat` to refuse tokens that were made before a revocation.
  const iat = Math.floor(Date.now() / 1_000);
  const payload = {
    ...claims,
    ...(issuer !== undefined && { iss: issuer }),
    ...(audience !== undefined && { aud: audience }),
    sub: user,
    iat,
    exp: iat + Math.ceil(expiresIn),
  };
  const signed = `${base64url(utf8Bytes('{"alg":"HS256","typ":"JWT"}'))}.${base64url(utf8Bytes(JSON.stringify(payload)))}`;
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", bytes as BufferSource, algorithm, false, ["sign"]);
  const signature = await crypto.subtle.sign("HMAC", key, utf8Bytes(signed) as BufferSource);
  return `${signed}.${base64url(new Uint8Array(signature))}`;
}

/**
 * Sends a message. After a retryable failure (no connection, a restarting server, a rate limit) it tries again within `timeout`
 * with the same key, so that the message is stored once.
 */
export async function send(message: Access & ServerMessage): Promise<Sent> {
  const { to, text, data, replyTo, messageKey = crypto.randomUUID(), ...access } = message;
  // What is undefined is not in the JSON.
  const fields = { to, key: messageKey, text, data, reply_to: replyTo } as FieldsOf<"send">;
  const { timeout = DEFAULT_TIMEOUT_MS } = access;
  checkTimeout(timeout);
  const deadline = performance.now() + timeout;
  for (let wait = INITIAL_RETRY_DELAY_MS; ; wait = Math.min(wait * 2, MAX_RETRY_DELAY_MS)) {
    try {
      return await command({ ...access, timeout: Math.max(1, deadline - performance.now()) }, "send", fields);
    } catch (error) {
      const retryDelayMs =
        error instanceof ChatError && error.retryable ? (error.retryAfter ?? wait * Math.random()) : Infinity;
      if (!(performance.now() + retryDelayMs < deadline)) throw error;
      await sleep(retryDelayMs, access.signal);
    }
  }
}

/**
 * Sends any command of docs/protocol.md, without a retry.
 *
 *     await command({ url, key, as: "shop" }, "create", { room: "order-17", members: ["alice"] });
 *
 * @throws ChatError with the server's code; `invalid` if the command cannot be sent, `offline` without an answer, `timeout` if it
 *   took too long, `aborted` after `signal`.
 */
export async function command<T extends HttpCommand["type"]>(
  access: Access,
  type: T,
  fields: FieldsOf<T>,
): Promise<AnswerOf<T>> {
  const { url, key, as, timeout = DEFAULT_TIMEOUT_MS, signal, fetch = globalThis.fetch } = access;
  const to = `${httpAddress(url)}/v1/${type}`;
  checkTimeout(timeout);
  const request = requestOptions(key, { as: isOfTheApplication(type) ? undefined : as, ...fields });
  const endSignal = AbortSignal.timeout(Math.min(Math.ceil(timeout), MAX_TIMER_DELAY_MS));
  let status: number;
  let body: string;
  try {
    const answer = await fetch(to, { ...request, signal: signal ? AbortSignal.any([signal, endSignal]) : endSignal });
    status = answer.status;
    body = await answer.text();
  } catch (cause) {
    if (signal?.aborted) throw chatError("aborted", "the call was ended", false, cause);
    if (endSignal.aborted) throw chatError("timeout", `no answer within ${Math.ceil(timeout)} ms`, true, cause);
    throw chatError("offline", `the server cannot be reached: ${fetchFailureReason(cause)}`, true, cause);
  }
  const answer = parseJson(body);
  if (answer?.["type"] === "ok" || answer?.["type"] === "pong") {
    const { type: _, ...rest } = answer;
    return rest as AnswerOf<T>;
  }
  if (typeof answer?.["code"] === "string") throw errorFromProblem(answer);
  // The answer is not from a Switchboard server, but from a proxy, for example.
  const retryable = status >= 500 || status === 408 || status === 429;
  throw chatError(retryable ? "unavailable" : "internal", `HTTP ${status}: ${body.slice(0, 200)}`, retryable);
}

/**
 * Reads the feed, and waits for new entries. A failure that may pass is tried again, however long it takes. The key needs the
 * scope `feed`.
 *
 *     for await (const entry of feed({ url, key, after: await load() })) {
 *       …
 *       await save(entry.id);
 *     }
 *
 * @throws ChatError if a retry cannot help: `bad_cursor` for a cursor of another feed; `aborted` after `signal`.
 */
export async function* feed(options: FeedOptions): AsyncGenerator<FeedEntry, void, undefined> {
  const { after, types, limit, follow = true, ...access } = options;
  const wait = follow ? MAX_WAIT_MS : 0;
  const timeout = wait + CALL_MARGIN_MS;
  const fixedFields = { wait, ...(types && { types }), ...(limit !== undefined && { limit }) };
  for (let cursor = after, more = true, delay = INITIAL_RETRY_DELAY_MS; follow || more;) {
    let page;
    try {
      page = await command({ ...access, timeout }, "feed", { after: cursor, ...fixedFields });
      delay = INITIAL_RETRY_DELAY_MS;
    } catch (error) {
      if (!follow || !(error instanceof ChatError && error.retryable)) throw error;
      await sleep(error.retryAfter ?? delay * Math.random(), access.signal);
      delay = Math.min(delay * 2, MAX_RETRY_DELAY_MS);
      continue;
    }
    yield* page.entries;
    ({ next: cursor, more } = page);
  }
}

function httpAddress(url: string): string {
  if (!/^(http|ws)s?:\/\//.test(url) || !URL.canParse(url)) throw invalidError(`no URL of a server: ${url}`);
  return url.replace(/^ws/, "http").replace(/(\/v1\/ws)?\/*$/, "");
}

function checkTimeout(timeout: number): void {
  if (!(timeout >= 0)) throw invalidError("`timeout` must be 0 or more milliseconds");
}

/** The request's options. Throws if the command cannot be sent; such an error is not retried. */
function requestOptions(key: string, fields: object): RequestInit {
  // The error does not contain the key, because it is a secret.
  if (!/^[!-~]+$/.test(key?.trim() ?? "")) throw invalidError("`key` is neither an API key nor a token");
  try {
    // An import is JSON Lines, and has no other fields.
    const { lines } = fields as { lines?: unknown };
    const [kind, body] = Array.isArray(lines)
      ? ["x-ndjson", lines.map((line) => `${JSON.stringify(line)}\n`).join("")]
      : ["json", JSON.stringify(fields)];
    const headers = { authorization: `Bearer ${key.trim()}`, "content-type": `application/${kind}` };
    return { method: "POST", headers, body };
  } catch (cause) {
    throw chatError("invalid", `this command is not JSON: ${String(cause)}`, false, cause);
  }
}

function parseJson(body: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(body) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

/** The error for a problem document (RFC 9457) of the server. */
function errorFromProblem(answer: Record<string, unknown>): ChatError {
  return new ChatError({ ...answer, message: String(answer["detail"]) } as unknown as Failure);
}

function chatError(code: ChatError["code"], message: string, retryable: boolean, cause?: unknown): ChatError {
  return Object.assign(new ChatError({ code, message, retryable }), cause !== undefined && { cause });
}

const invalidError = (message: string): ChatError => chatError("invalid", message, false);

/** The reason of a failed `fetch`. In Node it is in the `cause` of the error. */
const fetchFailureReason = (error: unknown): string => {
  const { cause, message } = error as Error;
  return (cause instanceof Error && cause.message) || message;
};

function sleep(time: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      reject(chatError("aborted", "the call was ended", false, signal?.reason));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", end);
      resolve();
    }, time);
    if (signal?.aborted) end();
    else signal?.addEventListener("abort", end, { once: true });
  });
}

const utf8Bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

const base64url = (bytes: Uint8Array): string =>
  btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");
