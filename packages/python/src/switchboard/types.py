"""What the server answers; the fields are those of docs/protocol.md."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Required, TypedDict, TypeVar

T = TypeVar("T")


class Role(StrEnum):
    """What a member of a room may do."""

    ADMIN = "admin"
    MEMBER = "member"
    READER = "reader"


# `from` is a word of Python, so this type is written as a call.
_Stored = TypedDict(
    "_Stored",
    {
        "type": Required[str],
        "conversation": Required[str],
        "seq": Required[int],
        "from": Required[str],
        "at": Required[str],
        "key": str,
        "text": str,
        "data": dict[str, Any],
        "reply_to": int,
        "deleted": bool,
    },
    total=False,
)


class Event(_Stored, total=False):
    """An event of the log. Which fields it has depends on its `type`."""

    target: int
    emoji: str
    on: bool
    title: str
    public: bool
    members: list[str]
    user: str
    role: str


class Message(_Stored, total=False):
    """A message in its current state."""

    edited: dict[str, Any]
    reactions: dict[str, list[str]]


class Member(TypedDict):
    """A member of a conversation."""

    user: str
    role: str
    read: int
    received: int


class Summary(TypedDict, total=False):
    """A conversation in the list of one of its members."""

    conversation: Required[str]
    title: str
    public: bool
    role: Required[str]
    members: Required[int]
    head: Required[int]
    at: Required[str]
    read: Required[int]
    received: Required[int]
    unread: Required[int]
    last: Message


class Profile(TypedDict, total=False):
    """What a user shows of themselves. `version` is 0 without a profile."""

    user: Required[str]
    name: str
    avatar: str
    data: dict[str, Any]
    version: Required[int]


class Block(TypedDict, total=False):
    """A user whom the user blocks."""

    user: Required[str]
    name: str
    at: Required[str]


ImportedMessage = TypedDict("ImportedMessage", {"from": str, "key": str})
"""A message of an import: its author and its key."""

ImportLine = TypedDict(
    "ImportLine",
    {
        "create": str,
        "title": str,
        "public": bool,
        "members": Sequence[str],
        "to": str,
        "from": Required[str],
        "at": str,
        "key": str,
        "text": str,
        "data": Mapping[str, Any],
        "reply_to": ImportedMessage,
        "react": str,
        "target": ImportedMessage,
        "read": str,
        "upto": ImportedMessage,
    },
    total=False,
)
"""A line of an import: a room (`create`), a message (`to`, `key`), a reaction (`react`), or how far a user has read (`read`)."""


class ImportResult(TypedDict):
    """How many lines are stored now, and how many were before."""

    stored: int
    duplicates: int


class ProfileChange(TypedDict, total=False):
    """What changes in a user's profile: None removes. A user whose `active` is false cannot sign in."""

    user: Required[str]
    name: str | None
    avatar: str | None
    data: Mapping[str, Any] | None
    active: bool


class ListedUser(TypedDict, total=False):
    """A user in a list. `number` never changes and is never given again."""

    number: Required[int]
    user: Required[str]
    name: str
    avatar: str
    data: Mapping[str, Any]
    version: Required[int]
    active: Required[bool]
    last_seen: str


class ListedRoom(TypedDict, total=False):
    """A room in a list. `number` is never given again."""

    number: Required[int]
    conversation: Required[str]
    title: str
    public: Required[bool]
    members: Required[int]
    messages: Required[int]
    head: Required[int]
    at: Required[str]


class ListedReport(TypedDict, total=False):
    """What users have reported: a message, or a `user` without `conversation` and `target`.

    With `held` it is a message that waits for a moderator, which no user has reported.
    """

    report: Required[str]
    state: Required[str]
    user: Required[str]
    conversation: str
    target: int
    held: bool
    snapshot: dict[str, Any]
    reasons: Required[list[dict[str, Any]]]
    reporters: Required[list[dict[str, Any]]]
    at: Required[str]
    moderator: str
    claimed: str
    decided: str
    action: str
    note: str


class ListedBan(TypedDict, total=False):
    """A ban from the installation. Without `until` it has no end; the user reads `reason`, moderators `note`.

    With `shadow` the user comes in all the same, and what they send is held.
    """

    number: Required[int]
    user: Required[str]
    until: str
    at: Required[str]
    shadow: bool
    reason: str
    note: str


class UserUnread(TypedDict, total=False):
    """What a user has not read; `more`: they have more conversations than the 200 that were counted."""

    user: Required[str]
    messages: Required[int]
    conversations: Required[int]
    online: Required[bool]
    last_seen: str
    more: Required[bool]


class SendResult(TypedDict, total=False):
    """What became of the message to one recipient: it has `seq` and `at`, or `held`, or `error`."""

    user: Required[str]
    conversation: str
    seq: int
    at: str
    duplicate: bool
    held: bool
    error: Mapping[str, Any]


class WebhookAnswer(TypedDict, total=False):
    """How a request to an endpoint ended: `took` counts milliseconds, and without an answer there is an `error`."""

    id: Required[str]
    at: Required[str]
    took: Required[int]
    status: int
    error: str


class Webhook(TypedDict):
    """A webhook. `paused` says why nothing is sent; `held` and `parked` are ids of entries."""

    name: str
    url: str
    created: str
    types: list[str]
    only: list[str]
    headers: list[str]
    paused: str | None
    position: str | None
    lag: int
    moved: str
    node: str | None
    failing_since: str | None
    next_try: str | None
    held: list[str]
    parked: list[str]
    old_until: str | None
    answers: list[WebhookAnswer]


@dataclass(frozen=True)
class Stored:
    """The answer to a command that stores an event: the event is on stable storage.

    `seq` and `at` are None while the message is held. `duplicate`: it had been stored before, for the same key. `event` is the
    stored event, if the application changed the message.
    """

    conversation: str
    seq: int | None
    at: str | None
    duplicate: bool = False
    held: bool = False
    event: Event | None = None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "Stored":
        """The fields of an `ok`."""
        return cls(
            answer["conversation"],
            answer.get("seq"),
            answer.get("at"),
            answer.get("duplicate", False),
            answer.get("held", False),
            answer.get("event"),
        )


@dataclass(frozen=True)
class Page(Generic[T]):
    """A page: `more` says whether there is another one; `head` is the last event that it includes or that the user may see."""

    items: list[T]
    more: bool
    head: int | None = None
    more_after: bool | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)
