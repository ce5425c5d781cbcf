"""Everything that was committed, over all conversations, in one order."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .client import Client
from .errors import ChatError
from .types import Event

# What a call may take beyond the time that the server waits for entries, in seconds.
MARGIN = 10.0
# The first and the longest delay after a failure, in seconds.
BACKOFF = 0.2
MAX_BACKOFF = 20.0


@dataclass(frozen=True)
class Entry:
    """An entry: `id` is a cursor, the same each time that it is delivered; `type` is an event's, or has a dot (`user.offline`).

    `event` is None for what is no event; `data` is the whole entry.
    """

    id: str
    type: str
    at: str | None
    via: str | None
    event: Event | None
    data: Mapping[str, Any]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Entry":
        """An entry of the feed, or the `data` of a webhook."""
        return cls(data["id"], data["type"], data.get("at"), data.get("via"), data.get("event"), data)


class Feed:
    """An iterator over `POST /v1/feed`. The key needs the scope `feed`.

    An entry counts as handled when the loop asks for the next one: then `save` is called with its cursor. A consumer that is
    killed before that gets the entry again, with the same `id`. To handle nothing twice, save `entry.id` as the cursor in the
    transaction that handles the entry.

    `cursor` is where to begin: `0`, `now`, or what was saved; `wait` counts milliseconds; without `follow` the loop ends at the
    end of the feed, as a cron job needs it.
    """

    def __init__(
        self,
        client: Client,
        cursor: str,
        save: Callable[[str], None] | None = None,
        *,
        types: Sequence[str] = (),
        limit: int = 500,
        wait: int = 25_000,
        follow: bool = True,
    ) -> None:
        self.cursor = cursor
        self._save = save
        self._follow = follow
        self._wait = wait if follow else 0
        self._client = client.within(self._wait / 1_000 + MARGIN)
        self._limit = limit
        self._types = list(types) or None
        self._stopped = False

    def stop(self) -> None:
        """Ends the loop before the next entry, for example in a handler of SIGTERM.

        A call that waits for an entry ends after `wait` at the latest.
        """
        self._stopped = True

    def __iter__(self) -> Iterator[Entry]:
        self._stopped = False
        while (page := self._page()) is not None:
            for data in page["entries"]:
                entry = Entry.of(data)
                yield entry
                self._advance(entry.id)
                if self._stopped:
                    return
            # Beyond the last entry, if `types` leaves out what follows it.
            self._advance(page["next"])
            if not self._follow and not page["more"]:
                return

    def _advance(self, cursor: str) -> None:
        if cursor != self.cursor:
            self.cursor = cursor
            if self._save is not None:
                self._save(cursor)

    def _page(self) -> dict[str, Any] | None:
        """The next page, however long the server is away; None if the loop was stopped meanwhile."""
        pause = BACKOFF
        while not self._stopped:
            try:
                return self._client.command(
                    "feed", after=self.cursor, limit=self._limit, wait=self._wait, types=self._types
                )
            except ChatError as failure:
                if not failure.retryable or not self._follow:
                    raise
                after = failure.retry_after
            time.sleep(pause * random.uniform(0.5, 1) if after is None else after / 1_000)
            pause = min(pause * 2, MAX_BACKOFF)
        return None
