"""The iterator over a feed that a function answers."""

import json
import unittest
from typing import Any

from switchboard import BadCursor, Client, Feed

from .support import Scripted, Server, problem

ENTRIES = 50


def feed(request: dict[str, Any]) -> tuple[int, bytes]:
    """Entries by number; a third of them is no event."""
    epoch, _, position = request["after"].rpartition("-")
    after = int(position)
    if epoch not in ("", "e1"):
        return problem(400, "bad_cursor", False, oldest="e1-0", newest=f"e1-{ENTRIES}")
    entries: list[dict[str, Any]] = []
    number = after
    while number < ENTRIES and len(entries) < request["limit"]:
        number += 1
        kind = "user.offline" if number % 3 == 0 else "message"
        if kind in request.get("types", [kind]):
            entries.append({"id": f"e1-{number}", "type": kind, "user": f"usr_{number}"})
    answer = {"type": "ok", "entries": entries, "next": f"e1-{number}", "more": number < ENTRIES}
    return 200, json.dumps(answer).encode()


class FeedTest(unittest.TestCase):
    def setUp(self) -> None:
        scripted = Scripted(feed)
        self.addCleanup(scripted.close)
        self.client = Client(scripted.url, "sbk_1", as_user="shop")

    def test_each_entry_comes_once_and_in_order(self) -> None:
        entries = list(Feed(self.client, "0", limit=7, follow=False))
        self.assertEqual([entry.id for entry in entries], [f"e1-{number}" for number in range(1, ENTRIES + 1)])
        self.assertEqual((entries[2].type, entries[2].data["user"], entries[2].event), ("user.offline", "usr_3", None))

    def test_the_cursor_follows_what_the_loop_has_handled(self) -> None:
        saved: list[str] = []
        reader = Feed(self.client, "e1-10", saved.append, follow=False)
        for entry in reader:
            if entry.id == "e1-13":
                break
        self.assertEqual((saved, reader.cursor), (["e1-11", "e1-12"], "e1-12"))
        self.assertEqual(next(iter(reader)).id, "e1-13", "the next loop begins with what was not handled")

    def test_types_that_are_left_out_move_the_cursor_too(self) -> None:
        reader = Feed(self.client, "e1-46", types=["user.offline"], follow=False)
        self.assertEqual([entry.id for entry in reader], ["e1-48"])
        self.assertEqual(reader.cursor, "e1-50")

    def test_a_loop_that_follows_ends_when_it_is_stopped(self) -> None:
        reader = Feed(self.client, "e1-48", wait=0)
        for entry in reader:
            if entry.id == "e1-50":
                reader.stop()
        self.assertEqual(reader.cursor, "e1-50")

    def test_a_cursor_of_another_epoch_is_refused_with_the_ends(self) -> None:
        with self.assertRaises(BadCursor) as caught:
            list(Feed(self.client, "e0-17"))
        self.assertEqual(caught.exception.details["newest"], "e1-50")


class ServerTest(unittest.TestCase):
    def test_the_feed_of_the_real_server(self) -> None:
        server = Server()
        self.addCleanup(server.close)
        shop = server.client()
        for number in range(30):
            shop.send("@alice", f"message {number}")
        reader = Feed(shop, "0", types=["message"], limit=7, follow=False)
        texts = [entry.event["text"] for entry in reader if entry.event]
        self.assertEqual(texts, [f"message {number}" for number in range(30)])
        follower = Feed(shop, reader.cursor, types=["message"])
        shop.send("@alice", "after")
        for entry in follower:
            self.assertEqual((entry.via, entry.event and entry.event["text"]), ("shop", "after"))
            follower.stop()
        with self.assertRaises(BadCursor):
            list(Feed(shop, "00000000-1", follow=False))
