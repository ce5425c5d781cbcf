import { ChatError } from "@switchboard/client";
import { compact } from "../compact.js";
import type { ErrorCode, Failure } from "../protocol.js";

const RETRYABLE_CODES: ReadonlySet<string> = new Set(["rate_limited", "unavailable", "not_ready"]);

/** Why a command is refused: the fields of an `error` frame. */
export class Refusal extends Error {
  readonly code: ErrorCode;
  readonly field: string | undefined;
  readonly permission: string | undefined;

  constructor(code: ErrorCode, message: string, field?: string, permission?: string) {
    super(message);
    this.code = code;
    this.field = field;
    this.permission = permission;
  }

  get failure(): Failure {
    const { code, message, field, permission } = this;
    return compact({ code, message, retryable: RETRYABLE_CODES.has(code), field, permission });
  }

  get chatError(): ChatError {
    return new ChatError(this.failure);
  }
}

export const notFound = () => new Refusal("not_found", "not there, or you may not know");
export const forbidden = (message: string) => new Refusal("forbidden", message);
export const notPermitted = (permission: string) =>
  new Refusal("forbidden", `you lack the permission ${permission}`, undefined, permission);
export const badField = (field: string, message: string) => new Refusal("bad_field", `${field}: ${message}`, field);
export const tooLarge = (field: string, message: string) => new Refusal("too_large", `${field}: ${message}`, field);
