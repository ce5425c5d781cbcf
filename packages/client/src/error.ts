import { compact } from "./compact.js";
import type { ErrorCode, Failure, Timestamp } from "./protocol.js";

/**
 * Codes of the SDK itself. `offline`: there was no connection in time; `closed`: the chat was closed; `discarded`: the
 * message was taken back; `expired`: the message waited longer than `maxAge`; `timeout`: there was no answer in time;
 * `aborted`: a `signal` ended the call; `storage`: the outbox could not be stored, or cursors not loaded or saved;
 * `internal`: an exception of the app's listener or of the SDK, or no Switchboard server at this address; `invalid`: an
 * invalid argument or token.
 */
export type LocalErrorCode =
  "offline" | "closed" | "discarded" | "expired" | "timeout" | "aborted" | "storage" | "internal" | "invalid";

type ErrorFields = Pick<Failure, "message" | "retryable" | "retry_after" | "field" | "permission"> & {
  code: ErrorCode | LocalErrorCode;
  until?: Timestamp;
  cause?: unknown;
};

/** Sets the name that consoles show for a class, because the build shortens the class's own name. */
const setClassName = (type: object, value: string): object => Object.defineProperty(type, "name", { value });

/** An error of the server or of the SDK. */
export class ChatError extends Error {
  static {
    setClassName(this, "ChatError");
  }
  override name = "ChatError";
  /** A code of the server or of the SDK. A newer server may send codes that the SDK does not know. */
  declare readonly code: ErrorCode | LocalErrorCode;
  /** Whether the same call may succeed later. */
  declare readonly retryable: boolean;
  /** Milliseconds to wait before the next attempt, if known. */
  declare readonly retryAfter?: number;
  /** The invalid field of the command. */
  declare readonly field?: string;
  /** With `forbidden`: the permission that the user lacks, by its name in the protocol, such as `create_rooms`. */
  declare readonly permission?: string;
  /** When a ban ends. */
  declare readonly until?: Timestamp;

  constructor({ message, code, retryable, retry_after: retryAfter, field, permission, until, cause }: ErrorFields) {
    super(message, cause === undefined ? undefined : { cause });
    // Makes `message` enumerable, so that logs and `JSON.stringify` include it.
    Object.defineProperty(this, "message", { enumerable: true });
    Object.assign(this, compact({ code, retryable, retryAfter, field, permission, until }));
  }
}

/** An error that does not come from the server. */
export const localError = (code: LocalErrorCode | "unauthorized", message: string, cause?: unknown): ChatError =>
  new ChatError({ code, message, retryable: code === "offline" || code === "timeout", cause });

/** A token function throws this if no retry can give a token, because no user is signed in. */
export class UnauthorizedError extends ChatError {
  static {
    setClassName(this, "UnauthorizedError");
  }
  override name = "UnauthorizedError";

  constructor(message = "nobody is signed in") {
    super({ code: "unauthorized", message, retryable: false });
  }
}
