// Decides after a lost connection whether and when the client reconnects.

import { type ChatError, failure } from "../error.js";

/** The first and the longest backoff, in milliseconds; each delay is a random part of it ("full jitter"). */
const BACKOFF = 500;
const BACKOFF_MOST = 20_000;
/** Milliseconds until reconnecting after the server closed the connection for flooding without `retry_after`. */
const TOO_FAST = 5_000;

/** Close codes that the client handles separately (docs/protocol.md). */
const TOKEN_ENDED = 4401;
const FLOODED = 4429;
export const UNAUTHORIZED = 4501;
const LOGGED_OUT = 4502;

/** How a connection, or an attempt to connect, ended. */
export interface Loss {
  code?: number | undefined;
  reason?: string | undefined;
  /** The `error` frame directly before the close. */
  error?: ChatError | undefined;
  /** The server's `retry_after`, in milliseconds. */
  retryAfter?: number | undefined;
  /** `renewable`: the app can make another token. `renewed`: it has already made one since the last `welcome`. */
  renewable: boolean;
  renewed: boolean;
}

export interface Verdict {
  /** The reason of the loss, as a text for a user. */
  reason: string;
  error?: ChatError | undefined;
  /** Whether there will be no other attempt. */
  final: boolean;
  /** Milliseconds for which the server asks the client to wait. */
  wait?: number | undefined;
}

export const NO_CONNECTION = "there is no connection";

/** Whether the close code means that the token is no longer accepted. */
export const refusesToken = (code: number | undefined): boolean =>
  code === TOKEN_ENDED || code === UNAUTHORIZED || code === LOGGED_OUT;

/** Whether another attempt would end with the same close code (docs/protocol.md). */
const isFinal = (code: number): boolean =>
  code === 1002 || (code >= 1007 && code <= 1009) || (code >= 4500 && code <= 4999);

export function judge({ code = 0, reason, error, retryAfter, renewable, renewed }: Loss): Verdict {
  const why = error?.message || reason || NO_CONNECTION;
  const verdict: Verdict = { reason: why, error, final: isFinal(code), wait: retryAfter };
  if (code === FLOODED) return { ...verdict, wait: retryAfter ?? TOO_FAST };
  if (refusesToken(code)) {
    const final = code === LOGGED_OUT || !renewable || (code === UNAUTHORIZED && renewed);
    if (!final) return { ...verdict, final, error: undefined };
    const text = code === TOKEN_ENDED ? "the token has ended: give `token` as a function, which gets a new one" : why;
    const known = error?.code === "unauthorized" ? error : failure("unauthorized", text);
    return { ...verdict, final, error: known, reason: known.message };
  }
  return verdict;
}

/** Milliseconds until the next attempt after `failures` failures, with jitter, so that clients do not all connect at once. */
export function delay(failures: number, wait: number | undefined): number {
  const longest = Math.min(BACKOFF_MOST, BACKOFF * 2 ** failures);
  // The server's delays already differ between clients. The small jitter spreads clients with the same delay.
  return wait === undefined ? Math.random() * longest : wait + Math.random() * Math.min(1_000, wait / 4);
}
