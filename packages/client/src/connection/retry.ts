// Decides after a lost connection whether and when the client reconnects.

import { type ChatError, localError } from "../error.js";

/** The first and the longest backoff, in milliseconds; each delay is a random part of it ("full jitter"). */
const INITIAL_BACKOFF_MS = 500;
const MAX_BACKOFF_MS = 20_000;
/** Milliseconds until reconnecting after the server closed the connection for flooding without `retry_after`. */
const FLOOD_DELAY_MS = 5_000;

/** Close codes that the client handles separately (docs/protocol.md). */
const CLOSE_TOKEN_ENDED = 4401;
const CLOSE_FLOODED = 4429;
export const CLOSE_UNAUTHORIZED = 4501;
const CLOSE_LOGGED_OUT = 4502;

/** How a connection, or an attempt to connect, ended. */
export interface ConnectionLoss {
  code?: number | undefined;
  reason?: string | undefined;
  /** The `error` frame directly before the close. */
  lastError?: ChatError | undefined;
  /** The server's `retry_after`, in milliseconds. */
  retryAfter?: number | undefined;
  /** Whether the app can make another token. */
  isRenewable: boolean;
  /** Whether the app has made another token since the last `welcome`. */
  isRenewed: boolean;
}

export interface RetryDecision {
  /** The reason of the loss, as a text for a user. */
  reason: string;
  error?: ChatError | undefined;
  /** Whether there will be no other attempt. */
  isFinal: boolean;
  /** Milliseconds for which the server asks the client to wait. */
  waitMs?: number | undefined;
}

export const NO_CONNECTION_REASON = "there is no connection";

/** Whether the close code means that the token is no longer accepted. */
export const isTokenRefusal = (code: number | undefined): boolean =>
  code === CLOSE_TOKEN_ENDED || code === CLOSE_UNAUTHORIZED || code === CLOSE_LOGGED_OUT;

/** Whether another attempt would end with the same close code (docs/protocol.md). */
const isFinalCloseCode = (code: number): boolean =>
  code === 1002 || (code >= 1007 && code <= 1009) || (code >= 4500 && code <= 4999);

export function decideRetry({
  code = 0,
  reason,
  lastError: error,
  retryAfter,
  isRenewable: renewable,
  isRenewed: renewed,
}: ConnectionLoss): RetryDecision {
  const reasonText = error?.message || reason || NO_CONNECTION_REASON;
  const decision: RetryDecision = { reason: reasonText, error, isFinal: isFinalCloseCode(code), waitMs: retryAfter };
  if (code === CLOSE_FLOODED) return { ...decision, waitMs: retryAfter ?? FLOOD_DELAY_MS };
  if (isTokenRefusal(code)) {
    const isFinal = code === CLOSE_LOGGED_OUT || !renewable || (code === CLOSE_UNAUTHORIZED && renewed);
    if (!isFinal) return { ...decision, isFinal, error: undefined };
    const text =
      code === CLOSE_TOKEN_ENDED ? "the token has ended: give `token` as a function, which gets a new one" : reasonText;
    const known = error?.code === "unauthorized" ? error : localError("unauthorized", text);
    return { ...decision, isFinal, error: known, reason: known.message };
  }
  return decision;
}

/** Milliseconds until the next attempt after `failures` failures, with jitter, so that clients do not all connect at once. */
export function retryDelay(failures: number, wait: number | undefined): number {
  const longestWaitMs = Math.min(MAX_BACKOFF_MS, INITIAL_BACKOFF_MS * 2 ** failures);
  // The server's delays already differ between clients. The small jitter spreads clients with the same delay.
  return wait === undefined ? Math.random() * longestWaitMs : wait + Math.random() * Math.min(1_000, wait / 4);
}
