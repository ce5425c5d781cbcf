"""The failures of a command: a class for each code of the server."""

from collections.abc import Mapping
from typing import Any


class ChatError(Exception):
    """A command failed. An unknown code is this class, and `retryable` says whether the same command may succeed later.

    `code` is the server's, or `offline` and `timed_out` without an answer; `retry_after` counts milliseconds; `field` is the
    field at fault; `request_id` names the request in the server's log; `details` is the whole answer.
    """

    def __init__(
        self,
        message: str,
        code: str,
        *,
        retryable: bool = False,
        retry_after: int | None = None,
        field: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after
        self.field = field
        self.status = status
        self.request_id = request_id
        self.details: Mapping[str, Any] = details or {}


class AlreadyExists(ChatError):
    """A room of that name exists, with other fields or by another user."""


class BadCursor(ChatError):
    """The cursor is past the end of the log, or of another log."""


class BadField(ChatError):
    """A field is missing, mistyped, out of range or unknown; `field` names it."""


class BadFrame(ChatError):
    """The request is not a JSON object."""


class Banned(ChatError):
    """The user is banned: until `details["until"]`, or without an end if that is absent."""


class Forbidden(ChatError):
    """The user's role or the key's scope does not allow the command."""


class KeyConflict(ChatError):
    """The idempotency key was used for another message; a new message needs a new key."""


class NotFound(ChatError):
    """It does not exist, or the user may not know whether it does."""


class NotReady(ChatError):
    """An object that the command names is not ready yet."""


class Offline(ChatError):
    """No connection, or it broke before the answer: whether the command was executed is unknown."""


class RateLimited(ChatError):
    """Too fast, or too many requests at once."""


class Refused(ChatError):
    """The application refused the command; the message is the application's."""


class TimedOut(ChatError):
    """No answer within the time-out: whether the command was executed is unknown."""


class TooLarge(ChatError):
    """The command exceeds one of the server's limits."""


class Unauthorized(ChatError):
    """The token or key is missing, wrong or expired."""


class Unavailable(ChatError):
    """The server cannot store or read at the moment: whether the command was executed is unknown."""


class UnknownType(ChatError):
    """The server has no such command; it may be older than this package."""


_CLASSES: dict[str, type[ChatError]] = {
    "already_exists": AlreadyExists,
    "bad_cursor": BadCursor,
    "bad_field": BadField,
    "bad_frame": BadFrame,
    "banned": Banned,
    "forbidden": Forbidden,
    "key_conflict": KeyConflict,
    "not_found": NotFound,
    "not_ready": NotReady,
    "rate_limited": RateLimited,
    "refused": Refused,
    "too_large": TooLarge,
    "unauthorized": Unauthorized,
    "unavailable": Unavailable,
    "unknown_type": UnknownType,
}


def from_problem(problem: Mapping[str, Any], status: int, request_id: str | None) -> ChatError:
    """The error for a problem document (RFC 9457) of the server."""
    code = str(problem["code"])
    retry_after, field = problem.get("retry_after"), problem.get("field")
    return _CLASSES.get(code, ChatError)(
        str(problem.get("detail", code)),
        code,
        retryable=problem.get("retryable") is True,
        retry_after=retry_after if isinstance(retry_after, int) else None,
        field=field if isinstance(field, str) else None,
        status=status,
        request_id=request_id,
        details=problem,
    )
