"""The client against the real server."""

import base64
import json
import unittest
import urllib.request
from collections.abc import Callable

from switchboard import (
    AlreadyExists,
    BadCursor,
    BadField,
    ChatError,
    Client,
    Forbidden,
    KeyConflict,
    NotFound,
    Role,
    TooLarge,
    Unauthorized,
    UnknownType,
    mint_token,
)
from switchboard._application import OF_THE_APPLICATION

from .support import SECRET, Server


class ClientTest(unittest.TestCase):
    server: Server

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Server()
        cls.addClassCleanup(cls.server.close)

    def test_a_message_is_stored_once_for_its_key(self) -> None:
        shop = self.server.client()
        first = shop.send("@anna", "On its way.", data={"order": 17}, key="order-17")
        self.assertEqual((first.conversation, first.seq, first.duplicate), ("@anna:shop", 1, False))
        again = shop.send("@anna", "On its way.", data={"order": 17}, key="order-17")
        self.assertEqual((again.seq, again.at, again.duplicate), (1, first.at, True))
        with self.assertRaises(KeyConflict):
            shop.send("@anna", "Another text.", key="order-17")

    def test_each_command_of_a_room(self) -> None:
        shop = self.server.client()
        bob, dave = shop.as_user("bob"), shop.as_user("dave")
        shop.create("tour", title="A tour", public=True, members=["bob"])
        bob.typing("#tour")
        self.assertTrue(shop.create("tour", title="A tour", public=True, members=["bob"]).duplicate)
        stored = [
            shop.invite("#tour", "carol", Role.READER),
            shop.role("#tour", "carol", Role.MEMBER),
            shop.rename("#tour", "The tour"),
            bob.send("#tour", "hello"),
            shop.send("#tour", "welcome", reply_to=5),
            bob.edit("#tour", 5, "hello, all"),
            shop.react("#tour", 5, "👍"),
            shop.react("#tour", 5, "👍", on=False),
            shop.delete("#tour", 6),
            dave.join("#tour"),
            dave.leave("#tour"),
            shop.remove("#tour", "carol"),
            shop.settings("#tour", slow=1_000, rejoin=False),
            shop.role("#tour", "bob", Role.READER, until="2031-01-01T00:00:00Z"),
            shop.remove("#tour", "eve", ban=True),
        ]
        self.assertEqual([one.seq for one in stored], list(range(2, 17)))
        self.assertEqual((bob.read("#tour", 13), bob.received("#tour", 5)), (13, 13))
        types = "create invite role rename message message edit react react delete join leave remove settings role remove"
        self.assertEqual([event["type"] for event in shop.all_events("#tour")], types.split())
        messages = list(shop.all_messages("#tour"))
        self.assertEqual([message["seq"] for message in messages], [6, 5])
        self.assertEqual((messages[0]["deleted"], messages[1]["text"]), (True, "hello, all"))
        self.assertEqual([member["user"] for member in shop.all_members("#tour")], ["shop", "bob"])
        self.assertEqual([message["seq"] for message in shop.history("#tour", around=5, limit=2)], [5])

    def test_pages_are_loaded_to_the_end(self) -> None:
        librarian = self.server.client("librarian")
        librarian.create("library")
        for number in range(250):
            librarian.send("#library", f"book {number}")
        self.assertEqual([event["seq"] for event in librarian.all_events("#library")], list(range(1, 252)))
        self.assertEqual(len(list(librarian.all_messages("#library"))), 250)
        self.assertEqual([one["conversation"] for one in librarian.all_conversations()], ["#library"])

    def test_each_call_of_the_server_has_a_method_and_one_of_the_application_has_no_as(self) -> None:
        with urllib.request.urlopen(f"{self.server.url}/v1/openapi.json") as answer:
            paths = json.load(answer)["paths"]
        calls = {path.removeprefix("/v1/"): methods["post"] for path, methods in paths.items() if "post" in methods}
        self.assertIn("send", calls)
        self.assertEqual({name for name in calls if not hasattr(Client, name.replace("/", "_"))} - {"feed", "import"}, set())
        self.assertTrue(hasattr(Client, "import_lines"), "`import` is a word of Python")
        of_the_application = {name for name, call in calls.items() if '"as"' not in json.dumps(call["requestBody"])}
        self.assertEqual(OF_THE_APPLICATION, of_the_application)

    def test_each_failure_has_a_class(self) -> None:
        shop = self.server.client()
        shop.create("errors", title="Errors", members=["bob"])
        stranger = Client(self.server.url, "sbk_wrong", as_user="shop")
        failures: list[tuple[type[ChatError], Callable[[], object]]] = [
            (NotFound, lambda: shop.history("#nowhere")),
            (Forbidden, lambda: shop.as_user("bob").rename("#errors", "Mine")),
            (BadField, lambda: shop.send("@bob", "")),
            (AlreadyExists, lambda: shop.create("errors", title="Others")),
            (BadCursor, lambda: shop.read("#errors", 99)),
            (TooLarge, lambda: shop.send("@bob", "x" * 20_000)),
            (UnknownType, lambda: shop.command("dance")),
            (Unauthorized, stranger.ping),
        ]
        for kind, call in failures:
            with self.subTest(kind.__name__), self.assertRaises(kind) as caught:
                call()
            self.assertFalse(caught.exception.retryable)
            self.assertTrue(caught.exception.request_id)
        with self.assertRaises(ChatError) as caught_field:
            shop.rename("#errors", "")
        self.assertEqual((caught_field.exception.field, caught_field.exception.status), ("title", 400))

    def test_what_the_server_would_refuse_is_not_sent(self) -> None:
        for url, key in [("ftp://chat.example", "sbk_1"), ("http://", "sbk_1"), ("http://chat.example", "a\r\nb: c")]:
            with self.subTest(url), self.assertRaises(ValueError):
                Client(url, key)
        with self.assertRaises(ValueError):
            self.server.client().send("@bob", "\ud83d")
        with self.assertRaises(ValueError):
            self.server.client().send("@bob", data={"number": float("nan")})

    def test_the_address_of_the_socket_will_do(self) -> None:
        url = self.server.url.replace("http", "ws", 1) + "/v1/ws"
        Client(url, self.server.key, as_user="shop").ping()


class TokenTest(unittest.TestCase):
    def test_a_token_lets_its_user_in_until_it_is_revoked(self) -> None:
        server = Server()
        self.addCleanup(server.close)
        # The secret ends with a line break, as the content of a file does.
        eve = Client(server.url, mint_token(f"{SECRET}\n", "eve"))
        eve.send("@bob", "hello")
        self.assertEqual(server.client("bob").history("@eve").items[0]["from"], "eve")
        server.client().revoke("eve")
        with self.assertRaises(Unauthorized):
            eve.ping()

    def test_a_token_says_when_it_ends_from_whom_it_is_and_for_whom(self) -> None:
        server = Server(SWITCHBOARD_AUTH_ISSUER="shop", SWITCHBOARD_AUTH_AUDIENCE="chat")
        self.addCleanup(server.close)
        more = {"name": "Zoë 🎉", "sub": "mallory"}
        token = mint_token(SECRET, "alice", lifetime=60, issuer="shop", audience="chat", claims=more)
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        self.assertEqual(claims["exp"] - claims["iat"], 60)
        self.assertEqual((claims["sub"], claims["name"]), ("alice", "Zoë 🎉"))
        Client(server.url, token).ping()
        with self.assertRaises(Unauthorized):
            Client(server.url, mint_token(SECRET, "alice", issuer="shop", audience="mail")).ping()

    def test_a_token_that_no_server_would_take_is_not_made(self) -> None:
        with self.assertRaises(ValueError):
            mint_token("short", "alice")
        with self.assertRaises(ValueError):
            mint_token(f" {SECRET}", "alice")
        with self.assertRaises(ValueError):
            mint_token(SECRET, "")
        with self.assertRaises(ValueError):
            mint_token(SECRET, "alice", lifetime=3_600_000_000)
