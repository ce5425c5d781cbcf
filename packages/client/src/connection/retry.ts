// What a lost connection means for the next one: when, or never.

import { type ChatError, failure } from "../error.js";

/** The first and the longest wait between attempts; each is a random part of it ("full jitter"). */
const BACKOFF = 500;
const BACKOFF_MOST = 20_000;
/** Milliseconds to stay away after having been too fast, where the server does not say how long. */
const TOO_FAST = 5_000;

/** Close codes with a meaning of their own (docs/protocol.md). */
const TOKEN_ENDED = 4401;
const FLOODED = 4429;
export const UNAUTHORIZED = 4501;
const LOGGED_OUT = 4502;

/** How a connection, or an attempt, ended. */
export interface Loss {
  code?: number | undefined;
  reason?: string | undefined;
  /** The error right before it. */
  error?: ChatError | undefined;
  /** What the server said to wait. */
  retryAfter?: number | undefined;
  /** Another token can be had; and it was had already, for want of a welcome. */
  renewable: boolean;
  renewed: boolean;
}

export interface Verdict {
  /** Why, for a person. */
  reason: string;
  error?: ChatError | undefined;
  /** There will be no other attempt. */
  final: boolean;
  /** Milliseconds that the server bids to wait. */
  wait?: number | undefined;
}

export const NO_CONNECTION = "there is no connection";

/** Close codes after which the token that was given is of no more use. */
export const refusesToken = (code: number | undefined): boolean =>
  code === TOKEN_ENDED || code === UNAUTHORIZED || code === LOGGED_OUT;

/** Close codes after which the same would end the same (docs/protocol.md). */
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

/** Milliseconds to wait after so many failures, spread so that many clients do not come at once. */
export function delay(failures: number, wait: number | undefined): number {
  const longest = Math.min(BACKOFF_MOST, BACKOFF * 2 ** failures);
  // What the server gave differs for every client already; a little more spreads those it did not tell apart.
  return wait === undefined ? Math.random() * longest : wait + Math.random() * Math.min(1_000, wait / 4);
}
