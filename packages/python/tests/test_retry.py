"""Failures that pass, and those that do not."""

import threading
import unittest
import unittest.mock

from switchboard import Client, Offline, RateLimited, Refused, TimedOut

from .support import Scripted, Server, milliseconds, problem


class RetryTest(unittest.TestCase):
    server: Server

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Server()
        cls.addClassCleanup(cls.server.close)

    def front(self, *answers: tuple[int, bytes] | str) -> tuple[Scripted, Client]:
        scripted = Scripted(list(answers), self.server.url)
        self.addCleanup(scripted.close)
        return scripted, Client(scripted.url, self.server.key, as_user="shop")

    def test_what_may_pass_is_tried_again_with_the_same_key(self) -> None:
        limited = problem(429, "rate_limited", True, retry_after=1)
        scripted, shop = self.front((502, b"<h1>Bad gateway</h1>"), "close", limited)
        self.assertEqual(shop.send("@alice", "once").seq, 1)
        keys = [body["key"] for _, body in scripted.requests]
        self.assertEqual((len(keys), len(set(keys))), (4, 1))

    def test_a_room_without_a_name_is_created_once(self) -> None:
        scripted, shop = self.front("close")
        room = shop.create(title="Nameless")
        self.assertEqual([f"#{body['room']}" for _, body in scripted.requests], [room.conversation] * 2)

    def test_a_refusal_is_final(self) -> None:
        scripted, shop = self.front(problem(422, "refused", False))
        with self.assertRaises(Refused) as caught:
            shop.send("@alice", "once")
        self.assertEqual((str(caught.exception), caught.exception.request_id), ("it is refused", "r-17"))
        self.assertEqual(len(scripted.requests), 1)

    def test_a_server_that_hangs_ends_the_call_in_time(self) -> None:
        _, shop = self.front("hang")

        def call() -> None:
            with self.assertRaises(TimedOut):
                shop.within(0.2).ping()

        self.assertLess(milliseconds(call), 5_000)

    def test_a_long_wait_ends_the_call_at_once(self) -> None:
        scripted, shop = self.front(problem(429, "rate_limited", True, retry_after=60_000))
        with self.assertRaises(RateLimited):
            shop.ping()
        self.assertEqual(len(scripted.requests), 1)

    def test_without_a_server_the_client_is_offline(self) -> None:
        with self.assertRaises(Offline):
            Client("http://127.0.0.1:1", "sbk_1", timeout=0.1).ping()

    def test_one_connection_serves_many_calls(self) -> None:
        scripted, shop = self.front()
        shop.ping()
        shop.as_user("alice").conversations()
        shop.create("reuse")
        self.assertEqual(len({address for address, _ in scripted.requests}), 1)

    def test_threads_share_a_client(self) -> None:
        shop = self.server.client()
        shop.create("threads")

        def write(name: str) -> None:
            for number in range(10):
                shop.send("#threads", f"{name} {number}")

        threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        texts = [message["text"] for message in shop.all_messages("#threads")]
        self.assertEqual(sorted(texts), sorted(f"{name} {number}" for name in "abcd" for number in range(10)))

    def test_a_message_survives_a_restart(self) -> None:
        server = Server()
        self.addCleanup(server.close)
        shop = server.client(timeout=30.0)
        shop.send("@alice", "first")
        server.kill()
        sender = threading.Thread(target=lambda: shop.send("@alice", "second"))
        sender.start()
        server.restart()
        sender.join()
        self.assertEqual([message["text"] for message in shop.history("@alice")], ["first", "second"])

    def test_a_connection_that_the_server_closed_is_no_failure(self) -> None:
        server = Server()
        self.addCleanup(server.close)
        shop = server.client()
        shop.ping()
        server.kill()
        server.restart()
        with unittest.mock.patch("switchboard.client.time.sleep", side_effect=AssertionError("a pause")):
            shop.ping()
