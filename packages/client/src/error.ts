import type { ErrorCode, Failure } from "./protocol.js";

/** Why something failed. */
export class ChatError extends Error {
  override name = "ChatError";
  /** A code of the server's, or: `offline`, there was no connection in time; `closed`, the chat was closed. */
  declare readonly code: ErrorCode | "offline" | "closed";
  /** Whether the same may succeed later. */
  declare readonly retryable: boolean;
  /** Milliseconds to wait before that, where it is known. */
  declare readonly retryAfter?: number;
  /** The field at fault. */
  declare readonly field?: string;

  constructor(failure: Pick<Failure, "message" | "retryable" | "retry_after" | "field"> & { code: ChatError["code"] }) {
    super(failure.message);
    this.code = failure.code;
    this.retryable = failure.retryable;
    if (failure.retry_after !== undefined) this.retryAfter = failure.retry_after;
    if (failure.field !== undefined) this.field = failure.field;
  }
}

/** Something that the server did not say. `offline` may succeed later. */
export const failure = (code: "offline" | "closed" | "unauthorized", message: string): ChatError =>
  new ChatError({ code, message, retryable: code === "offline" });

/** Thrown by a token callback that will not get a token however often it is asked: nobody is signed in. */
export class UnauthorizedError extends ChatError {
  override name = "UnauthorizedError";

  constructor(message = "nobody is signed in") {
    super({ code: "unauthorized", message, retryable: false });
  }
}
