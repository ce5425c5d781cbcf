import type { ErrorCode, Failure } from "./protocol.js";

/**
 * What the server did not say: `offline`, there was no connection in time; `closed`, the chat was closed; `timeout`, it took too
 * long; `aborted`, the caller ended it; `internal`, a fault of the SDK's or the app's code, or no server of ours at this address.
 */
type OwnCode = "offline" | "closed" | "timeout" | "aborted" | "internal";

/** Why something failed. */
export class ChatError extends Error {
  override name = "ChatError";
  /** A code of the server's, or one of the SDK's own. */
  declare readonly code: ErrorCode | OwnCode;
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
