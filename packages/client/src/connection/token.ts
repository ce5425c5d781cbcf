// The credentials of a connection: a token that the app makes when it is needed, and that is kept while it is valid.

import type { Clock } from "../clock.js";
import { ChatError, localError, UnauthorizedError } from "../error.js";
import type { ChatOptions } from "../types.js";

/** Milliseconds after which a token function counts as failed. */
const TOKEN_TIMEOUT_MS = 30_000;
/** A token that expires within this many milliseconds is not used for a new connection. */
const EXPIRY_MARGIN_MS = 30_000;

export type Credentials = { token: string } | { user: string };

interface Claims {
  sub?: unknown;
  exp?: unknown;
  iat?: unknown;
}

/** The claims of a JWT, without checking its signature; only the server can do that. */
function claimsOf(token: string): Claims {
  try {
    return JSON.parse(atob(token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/"))) as Claims;
  } catch {
    return {};
  }
}

/** Milliseconds for which a token is valid. Uses `iat` as well, because the device's clock may be wrong. */
function tokenLifetime({ exp, iat }: Claims, wall: number): number {
  if (typeof exp !== "number") return Infinity;
  const msUntilExpiry = exp * 1_000 - wall;
  return typeof iat === "number" ? Math.min(msUntilExpiry, (exp - iat) * 1_000) : msUntilExpiry;
}

/** Returns the token without surrounding space. Throws if it is no token, such as an HTML page of a back end. */
function checkedToken(token: unknown): string {
  const text = typeof token === "string" ? token.trim() : "";
  if (/^[\w.~+/=-]+$/.test(text)) return text;
  const shownToken = typeof token === "string" ? JSON.stringify(token.slice(0, 40)) : typeof token;
  throw localError("invalid", `a token is a JWT, and not ${shownToken}`);
}

export class TokenSource {
  #options: ChatOptions;
  #clock: Clock;
  #onUser: (user: string) => void;
  #cachedToken: { token: string; expiresAt: number } | undefined;

  /** `onUser` is called with the token's user as soon as that is known. */
  constructor(options: ChatOptions, clock: Clock, onUser: (user: string) => void) {
    this.#options = options;
    this.#clock = clock;
    this.#onUser = onUser;
  }

  /** Whether the app has a function that makes tokens. */
  get isRenewable(): boolean {
    return typeof this.#options.token === "function";
  }

  /** Forgets the kept token, because the server no longer accepts it. */
  dropToken(): void {
    this.#cachedToken = undefined;
  }

  async credentials(signal: AbortSignal): Promise<Credentials> {
    const { token, user } = this.#options;
    if (token === undefined) {
      if (user === undefined) throw new UnauthorizedError("neither a token nor a user");
      this.#onUser(user);
      return { user };
    }
    if (typeof token === "string") return this.#credentialsOf(checkedToken(token));
    if (this.#cachedToken && this.#clock.now() < this.#cachedToken.expiresAt) return { token: this.#cachedToken.token };
    const newToken = await this.#callTokenFunction(token, signal);
    const expiresAt = this.#clock.now() + tokenLifetime(claimsOf(newToken), this.#clock.wall()) - EXPIRY_MARGIN_MS;
    this.#cachedToken = { token: newToken, expiresAt };
    return this.#credentialsOf(newToken);
  }

  #credentialsOf(token: string): Credentials {
    const user = this.#options.user ?? claimsOf(token).sub;
    if (typeof user === "string") this.#onUser(user);
    return { token };
  }

  /** Calls the app's token function; rejects when it takes too long or `signal` is aborted. */
  #callTokenFunction(token: Exclude<ChatOptions["token"], string | undefined>, signal: AbortSignal): Promise<string> {
    const abortController = new AbortController();
    return new Promise<string>((resolve, reject) => {
      const end = (error: ChatError) => {
        abortController.abort();
        reject(error);
      };
      const timer = this.#clock.setTimeout(
        () => end(localError("timeout", `the token function gave nothing in ${TOKEN_TIMEOUT_MS / 1_000} s`)),
        TOKEN_TIMEOUT_MS,
      );
      signal.addEventListener("abort", () => end(localError("aborted", "another attempt took its place")));
      const getToken = async () => checkedToken(await token({ signal: abortController.signal }));
      getToken()
        .catch((error: unknown) => {
          const known =
            error instanceof ChatError || (error as Partial<ChatError> | undefined)?.code === "unauthorized";
          throw known ? error : localError("offline", String(error), error);
        })
        .then(resolve, reject)
        .finally(() => this.#clock.clearTimeout(timer));
    });
  }
}
