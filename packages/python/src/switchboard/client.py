"""The server's commands over HTTP."""

import copy
import json
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, TypeVar

from ._application import OF_THE_APPLICATION, ONCE, ApplicationCalls
from ._http import Http
from .errors import ChatError, Unavailable, from_problem
from .types import Block, Event, Member, Message, Page, Profile, Role, Stored, Summary

T = TypeVar("T")
C = TypeVar("C")

# The first and the longest delay before another attempt, in seconds.
BACKOFF = 0.2
MAX_BACKOFF = 5.0


class _Unchanged(Enum):
    UNCHANGED = 0


# A field of a profile that stays as it is, because None removes it.
UNCHANGED = _Unchanged.UNCHANGED


class Client(ApplicationCalls):
    """Commands with an API key in the name of any user, or with a user's token.

    A failure that may pass (no connection, a restart, a rate limit) is retried within the time-out. This is safe: a message has a
    key, and a room a name, before the first attempt, and the calls that make a secret are not retried. Threads may share a client.

    `url` is the server, as `https://chat.example`; `as_user` is the user in whose name an API key acts; `timeout` counts seconds
    for a call with all its attempts, and `connect_timeout` those for one attempt to connect.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        as_user: str | None = None,
        timeout: float = 10.0,
        connect_timeout: float = 3.0,
    ) -> None:
        if not re.fullmatch(r"(http|ws)s?://[^/?#\s]+[^?#\s]*", url):
            raise ValueError("the URL of a server begins with http:// or https://")
        # The message does not contain the key, because it is a secret.
        if not re.fullmatch(r"[!-~]+", key.strip()):
            raise ValueError("this is neither an API key nor a token")
        _check(timeout)
        _check(connect_timeout)
        self._http = Http(re.sub(r"(/v1/ws)?/*$", "", re.sub("^ws", "http", url), count=1), connect_timeout)
        self._headers = {"authorization": f"Bearer {key.strip()}"}
        self._as_user = as_user
        self._timeout = timeout

    def as_user(self, user: str) -> "Client":
        """The same client, over the same connection, in the name of another user."""
        other = copy.copy(self)
        other._as_user = user
        return other

    def within(self, timeout: float) -> "Client":
        """The same client, over the same connection, with another time-out in seconds."""
        _check(timeout)
        other = copy.copy(self)
        other._timeout = timeout
        return other

    def send(
        self,
        to: str,
        text: str | None = None,
        *,
        data: Mapping[str, Any] | None = None,
        key: str | None = None,
        reply_to: int | None = None,
    ) -> Stored:
        """Sends a message to `@alice`, `#general`, or a conversation id.

        Messages with the same `key` are stored once, for example the number of an order. Without it a random key is used, so
        that only the retries of this call are recognized.
        """
        key = secrets.token_hex(16) if key is None else key
        return self._store("send", to=to, key=key, text=text, data=data, reply_to=reply_to)

    def edit(
        self, conversation: str, target: int, text: str | None = None, *, data: Mapping[str, Any] | None = None
    ) -> Stored:
        """Replaces the content of a message that the user wrote; an omitted part is removed."""
        return self._store("edit", conversation=conversation, target=target, text=text, data=data)

    def delete(self, conversation: str, target: int) -> Stored:
        """Erases a message: one that the user wrote, or any in a room as admin."""
        return self._store("delete", conversation=conversation, target=target)

    def react(self, conversation: str, target: int, emoji: str, *, on: bool = True) -> Stored:
        """Sets or removes a reaction."""
        return self._store("react", conversation=conversation, target=target, emoji=emoji, on=on)

    def create(
        self,
        room: str | None = None,
        *,
        title: str | None = None,
        public: bool = False,
        members: Sequence[str] = (),
    ) -> Stored:
        """Creates a room; the user is its admin. Without `room` it has a random name."""
        room = secrets.token_hex(16) if room is None else room
        return self._store("create", room=room, title=title, public=public, members=list(members))

    def join(self, conversation: str) -> Stored:
        """Joins a public room."""
        return self._store("join", conversation=conversation)

    def leave(self, conversation: str) -> Stored:
        """Leaves a room."""
        return self._store("leave", conversation=conversation)

    def invite(self, conversation: str, user: str, role: Role = Role.MEMBER) -> Stored:
        """Adds a user to a room at once."""
        return self._store("invite", conversation=conversation, user=user, role=role)

    def remove(self, conversation: str, user: str, *, ban: bool = False, until: str | None = None) -> Stored:
        """Removes a user from a room.

        With `ban` the user stays out, until the time `until` (RFC 3339) or an admin's invitation; this also bans a user who is
        no member.
        """
        return self._store("remove", conversation=conversation, user=user, ban=ban or None, until=until)

    def role(self, conversation: str, user: str, role: Role, *, until: str | None = None) -> Stored:
        """Changes a member's role. A reader `until` a time (RFC 3339) is then what they were."""
        return self._store("role", conversation=conversation, user=user, role=role, until=until)

    def settings(self, conversation: str, *, slow: int | None = None, rejoin: bool | None = None) -> Stored:
        """Changes the settings of a room; None leaves one as it is.

        `slow`: the milliseconds between two messages of a member, 0 for none. `rejoin`: whether a user who was removed may join
        again.
        """
        return self._store("settings", conversation=conversation, slow=slow, rejoin=rejoin)

    def rename(self, conversation: str, title: str) -> Stored:
        """Changes a room's title."""
        return self._store("rename", conversation=conversation, title=title)

    def read(self, conversation: str, upto: int) -> int:
        """Moves the user's read cursor; returns where it is now."""
        return int(self.command("read", conversation=conversation, upto=upto)["upto"])

    def received(self, conversation: str, upto: int) -> int:
        """Moves the user's received cursor; returns where it is now."""
        return int(self.command("received", conversation=conversation, upto=upto)["upto"])

    def typing(self, conversation: str) -> None:
        """Shows the other members for 5 s that the user is typing."""
        self.command("typing", conversation=conversation)

    def sync(self, conversation: str, *, after: int = 0, limit: int | None = None) -> Page[Event]:
        """A page of the raw log: the events after a number, oldest first."""
        return _page(self.command("sync", conversation=conversation, after=after, limit=limit), "events")

    def history(
        self,
        conversation: str,
        *,
        before: int | None = None,
        around: int | None = None,
        limit: int | None = None,
    ) -> Page[Message]:
        """A page of messages in their current state, oldest first: the latest, those before a `seq`, or around one."""
        answer = self.command("history", conversation=conversation, before=before, around=around, limit=limit)
        return _page(answer, "messages")

    def conversations(self, *, before: str | None = None, limit: int | None = None) -> Page[Summary]:
        """A page of the user's conversations, latest activity first."""
        return _page(self.command("conversations", before=before, limit=limit), "conversations")

    def members(self, conversation: str, *, after: str | None = None, limit: int | None = None) -> Page[Member]:
        """A page of a conversation's members."""
        return _page(self.command("members", conversation=conversation, after=after, limit=limit), "members")

    def all_messages(self, conversation: str) -> Iterator[Message]:
        """All messages, newest first; pages are loaded as they are needed."""

        def load(before: int | None) -> Page[Message]:
            page = self.history(conversation, before=before)
            return replace(page, items=page.items[::-1])

        return _all(load, lambda message: message["seq"])

    def all_events(self, conversation: str, *, after: int = 0) -> Iterator[Event]:
        """The events of the log after a number, oldest first; pages are loaded as they are needed."""
        return _all(lambda seq: self.sync(conversation, after=after if seq is None else seq), lambda event: event["seq"])

    def all_conversations(self) -> Iterator[Summary]:
        """All conversations of the user; pages are loaded as they are needed."""
        return _all(lambda before: self.conversations(before=before), lambda summary: summary["conversation"])

    def all_members(self, conversation: str) -> Iterator[Member]:
        """All members of a conversation; pages are loaded as they are needed."""
        return _all(lambda after: self.members(conversation, after=after), lambda member: member["user"])

    def ping(self) -> None:
        """Checks the address, the key and the connection."""
        self.command("ping")

    def profile(
        self,
        *,
        name: str | None | _Unchanged = UNCHANGED,
        avatar: str | None | _Unchanged = UNCHANGED,
        data: Mapping[str, Any] | None | _Unchanged = UNCHANGED,
    ) -> int:
        """Changes the user's own profile, and returns its version. What is not named stays as it was; None removes it."""
        named = {"name": name, "avatar": avatar, "data": data}
        changes = {field: value for field, value in named.items() if value is not UNCHANGED}
        return int(self._execute("profile", changes)["version"])

    def users(self, users: Sequence[str]) -> Page[Profile]:
        """The profiles of users, in this order, without those whom the user may not see."""
        return _page(self.command("users", users=list(users)), "users")

    def find_users(self, query: str, *, limit: int | None = None) -> Page[Profile]:
        """The users whose name has a word with this beginning, or whose id begins so; at least two bytes."""
        return _page(self.command("find_users", query=query, limit=limit), "users")

    def block(self, user: str, *, on: bool = True) -> None:
        """Hides everything that another user writes from the user, or shows it again."""
        self.command("block", user=user, on=on)

    def blocks(self, *, after: str | None = None, limit: int | None = None) -> Page[Block]:
        """A page of the users whom the user blocks. The next page is after the last one."""
        return _page(self.command("blocks", after=after, limit=limit), "blocks")

    def report(
        self,
        reason: str,
        *,
        conversation: str | None = None,
        target: int | None = None,
        user: str | None = None,
        text: str | None = None,
    ) -> str:
        """Reports a message, by `conversation` and `target`, or a `user`, to the moderators. Returns the report's id.

        `reason` is `spam`, `abuse`, `sexual`, `violence`, `self_harm`, `illegal` or `other`.
        """
        fields = {"conversation": conversation, "target": target, "user": user, "reason": reason, "text": text}
        return str(self.command("report", **fields)["report"])

    def command(self, name: str, /, **fields: Any) -> dict[str, Any]:
        """Executes any command of docs/protocol.md, and returns the fields of its `ok`. Fields that are None are omitted."""
        return self._execute(name, {field: value for field, value in fields.items() if value is not None})

    def _execute(self, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Executes a command, and again after a failure that may pass."""
        named = {} if self._as_user is None or name in OF_THE_APPLICATION else {"as": self._as_user}
        # An import is JSON Lines, and has no other fields.
        objects = fields["lines"] if name == "import" else [{**named, **fields}]
        body = "\n".join(json.dumps(one, ensure_ascii=False, allow_nan=False) for one in objects).encode()
        deadline = time.monotonic() + self._timeout
        wait = BACKOFF
        while True:
            try:
                return self._attempt(name, body, deadline - time.monotonic())
            except ChatError as failure:
                if failure.retry_after is None:
                    pause = wait * random.random()
                else:
                    pause = failure.retry_after / 1_000
                again = failure.retryable and name not in ONCE
                if not again or time.monotonic() + pause >= deadline:
                    raise
            time.sleep(pause)
            wait = min(wait * 2, MAX_BACKOFF)

    def _attempt(self, name: str, body: bytes, timeout: float) -> dict[str, Any]:
        kind = "application/x-ndjson" if name == "import" else "application/json"
        sent = {**self._headers, "content-type": kind}
        status, headers, content = self._http.post(f"/v1/{name}", sent, body, timeout)
        request_id = headers.get("x-request-id")
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if isinstance(answer, dict) and answer.get("type") in ("ok", "pong"):
            return answer
        if isinstance(answer, dict) and isinstance(answer.get("code"), str):
            raise from_problem(answer, status, request_id)
        # The answer is not from a Switchboard server, but from a proxy, for example.
        message = f"HTTP {status}: {content[:200].decode(errors='replace')}"
        if status >= 500 or status in (408, 429):
            raise Unavailable(message, "unavailable", retryable=True, status=status, request_id=request_id)
        raise ChatError(message, "internal", status=status, request_id=request_id)

    def _store(self, name: str, **fields: Any) -> Stored:
        return Stored.of(self.command(name, **fields))


def _all(load: Callable[[C | None], Page[T]], cursor_of: Callable[[T], C]) -> Iterator[T]:
    """The items of all pages. Each page is loaded from the cursor of the last item, and the first one from `None`."""
    cursor = None
    while True:
        page = load(cursor)
        for item in page:
            cursor = cursor_of(item)
            yield item
        if not page.more:
            return


def _page(answer: Mapping[str, Any], items: str) -> Page[Any]:
    return Page(answer[items], answer["more"], answer.get("head"), answer.get("more_after"))


def _check(timeout: float) -> None:
    if not timeout > 0:
        raise ValueError("a time-out is a number of seconds above 0")
