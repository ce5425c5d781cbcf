"""The calls about webhooks, and the requests of the real server to an endpoint."""

import queue
import tempfile
import threading
import unittest
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from switchboard import BadSignature, ChatError, Client, Entry, Forbidden, NotFound, verify

from .support import Scripted, Server


class Endpoint:
    """An endpoint that verifies each request and answers 204."""

    def __init__(self) -> None:
        self.secret = ""
        self.entries: queue.Queue[Entry] = queue.Queue()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                try:
                    endpoint.entries.put(Entry.of(verify(endpoint.secret, body, self.headers)["data"]))
                    self.send_response(204)
                except BadSignature:
                    self.send_response(503)
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def text(self) -> str:
        """The type or the text of the next entry."""
        entry = self.entries.get(timeout=30)
        return entry.event["text"] if entry.event else entry.type

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class WebhookCallsTest(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="switchboard-python-")
        self.addCleanup(directory.cleanup)
        secret = Path(directory.name, "webhooks")
        secret.write_text("secret" * 8)
        self.server = Server(SWITCHBOARD_WEBHOOKS_SECRET_FILE=str(secret), SWITCHBOARD_WEBHOOKS_PRIVATE="true")
        self.addCleanup(self.server.close)
        self.admin = self.server.admin()

    def test_a_webhook_from_its_first_entry_to_its_end(self) -> None:
        endpoint = Endpoint()
        self.addCleanup(endpoint.close)
        endpoint.secret = self.admin.add_webhook("shop", endpoint.url, types=["message"], headers={"x-shop": "7"})
        self.assertEqual(self.admin.test_webhook("shop")["status"], 204)
        self.assertEqual(endpoint.text(), "webhook.test")
        self.admin.send("@alice", "hello")
        self.assertEqual(endpoint.text(), "hello")
        self.admin.pause_webhook("shop")
        self.assertEqual(self.admin.list_webhooks()[0]["paused"], "by an operator")
        second = self.admin.rotate_webhook("shop", overlap=60_000)
        self.assertNotEqual(second, endpoint.secret)
        endpoint.secret = second
        self.admin.send("@alice", "again")
        self.admin.resume_webhook("shop")
        self.assertEqual(endpoint.text(), "again")
        self.admin.replay_webhook("shop", start="0")
        self.assertEqual(endpoint.text(), "hello")
        self.admin.replay_webhook("shop", parked=True)
        [webhook] = self.admin.list_webhooks()
        described = (webhook["url"], webhook["types"], webhook["headers"], webhook["parked"])
        self.assertEqual(described, (endpoint.url, ["message"], ["x-shop"], []))
        self.admin.remove_webhook("shop")
        self.assertEqual(self.admin.list_webhooks(), [])
        with self.assertRaises(NotFound):
            self.admin.remove_webhook("shop")

    def test_a_call_that_makes_a_secret_is_not_repeated(self) -> None:
        scripted = Scripted(["close", (502, b"Bad gateway")], self.server.url)
        self.addCleanup(scripted.close)
        client = Client(scripted.url, self.server.key, as_user="shop")
        calls: list[Callable[[], str]] = [
            lambda: client.add_webhook("shop", "https://shop.example"),
            lambda: client.rotate_webhook("shop"),
        ]
        for call in calls:
            with self.assertRaises(ChatError) as caught:
                call()
            self.assertTrue(caught.exception.retryable)
        client.ping()
        self.assertEqual([body.get("as") for _, body in scripted.requests], [None, None, "shop"])

    def test_a_key_without_the_scope_is_refused(self) -> None:
        with self.assertRaises(Forbidden) as caught:
            self.server.client().list_webhooks()
        self.assertEqual(caught.exception.details["permission"], "admin")
