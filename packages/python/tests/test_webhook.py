"""Signatures, beside the official libraries of Standard Webhooks for Python and JavaScript."""

import json
import subprocess
import tempfile
import time
import unittest
from datetime import UTC, datetime

import standardwebhooks
from switchboard import BadSignature, sign, verify

from .support import ROOT, SECRET, Endpoint, Server

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = '{"type":"message","timestamp":"2026-11-24T17:54:04.010Z","data":{"text":"Zoë 🎉"}}'.encode()


def signed(at: int | None = None, body: bytes = BODY) -> dict[str, str]:
    at = int(time.time()) if at is None else at
    return {
        "webhook-id": "e1-7",
        "webhook-timestamp": str(at),
        "webhook-signature": sign(WHSEC, "e1-7", at, body),
    }


def official(**request: object) -> str:
    """Asks the library for JavaScript."""
    script = ROOT / "packages/php/tests/Support/official.mjs"
    fields = {"secret": WHSEC, "id": "e1-7", "body": BODY.decode()} | request
    return subprocess.check_output(["node", script], input=json.dumps(fields), text=True).strip()


class WebhookTest(unittest.TestCase):
    def test_the_example_of_the_specification(self) -> None:
        signature = sign(WHSEC, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        self.assertEqual(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")

    def test_the_library_for_python(self) -> None:
        theirs, now = standardwebhooks.Webhook(WHSEC), int(time.time())
        theirs.verify(BODY, signed())
        with self.assertRaises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(OTHER).verify(BODY, signed())
        signature = theirs.sign("e1-7", datetime.fromtimestamp(now, UTC), BODY.decode())
        self.assertEqual(verify(WHSEC, BODY, signed(now) | {"webhook-signature": signature})["type"], "message")

    def test_the_library_for_javascript(self) -> None:
        now = int(time.time())
        ours = sign(WHSEC, "e1-7", now, BODY)
        self.assertEqual(official(do="verify", timestamp=now, signature=f"v1,AAAA {ours}"), "good")
        forged = official(do="verify", timestamp=now, signature=sign(OTHER, "e1-7", now, BODY))
        self.assertEqual(forged, "WebhookVerificationError")
        signature = official(do="sign", timestamp=now)
        self.assertEqual(verify(WHSEC, BODY, signed(now) | {"webhook-signature": signature})["type"], "message")

    def test_headers_come_in_any_form(self) -> None:
        headers = signed()
        wsgi = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
        for form in (wsgi, {name.title(): value for name, value in headers.items()}):
            self.assertEqual(verify(WHSEC, BODY, form)["type"], "message")

    def test_one_of_several_signatures_and_secrets_is_enough(self) -> None:
        headers = signed()
        headers["webhook-signature"] = f"v1a,x v1,AAAA {headers['webhook-signature']}"
        self.assertEqual(verify([OTHER, WHSEC], BODY, headers)["type"], "message")

    def test_a_forgery_is_refused(self) -> None:
        good, now = signed(), int(time.time())
        forgeries = {
            "another id": good | {"webhook-id": "e1-8"},
            "another time": good | {"webhook-timestamp": str(now + 1)},
            "another version": good | {"webhook-signature": "v2" + good["webhook-signature"][2:]},
            "an empty signature": good | {"webhook-signature": "v1,"},
            "no signature": {name: value for name, value in good.items() if name != "webhook-signature"},
            "too old": signed(now - 310),
            "too new": signed(now + 310),
            "no number": good | {"webhook-timestamp": f"{now}.0"},
        }
        for what, headers in forgeries.items():
            with self.subTest(what), self.assertRaises(BadSignature):
                verify(WHSEC, BODY, headers)
        with self.assertRaises(BadSignature):
            verify(WHSEC, BODY + b" ", good)
        with self.assertRaises(BadSignature):
            verify(WHSEC, b"text", signed(body=b"text"))

    def test_the_tolerance_is_five_minutes(self) -> None:
        begin = 1_700_000_000
        for off in (-300, 300):
            verify(WHSEC, BODY, signed(begin), now=begin + off)
        for off in (-301, 301):
            with self.assertRaises(BadSignature):
                verify(WHSEC, BODY, signed(begin), now=begin + off)

    def test_a_secret_that_is_none_is_a_mistake_here(self) -> None:
        with self.assertRaises(ValueError):
            verify("whsec_!", BODY, signed())


class LiveWebhookTest(unittest.TestCase):
    """What a server sends to an endpoint."""

    def setUp(self) -> None:
        secret = tempfile.NamedTemporaryFile("w")
        self.addCleanup(secret.close)
        secret.write(SECRET)
        secret.flush()
        settings = {"SWITCHBOARD_WEBHOOKS_SECRET_FILE": secret.name, "SWITCHBOARD_WEBHOOKS_PRIVATE": "true"}
        self.server, self.endpoint = Server(**settings), Endpoint()
        self.addCleanup(self.server.close)
        self.addCleanup(self.endpoint.close)

    def assert_verified(self, secret: str, headers: dict[str, str], body: bytes) -> None:
        """Each library accepts the request with this secret."""
        self.assertEqual(standardwebhooks.Webhook(secret).verify(body, headers), json.loads(body))
        self.assertEqual(verify(secret, body, headers), json.loads(body))
        fields = {name.removeprefix("webhook-"): value for name, value in headers.items()}
        by_javascript = official(
            do="verify",
            secret=secret,
            id=fields["id"],
            timestamp=int(fields["timestamp"]),
            signature=fields["signature"],
            body=body.decode(),
        )
        self.assertEqual(by_javascript, "good")

    def test_each_library_verifies_what_the_server_sends(self) -> None:
        command = ("webhook", "add", "shop", self.endpoint.url, "--types", "message", "--from", "0")
        old = self.server.command(*command)
        chat = self.server.client()
        chat.send("@alice", "Zoë 🎉 \\ </script> \u2028", data={"order": 17})
        headers, body = self.endpoint.next()
        self.assert_verified(old, headers, body)
        self.assertEqual(json.loads(body)["data"]["event"]["text"], "Zoë 🎉 \\ </script> \u2028")
        with self.assertRaises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(OTHER).verify(body, headers)
        with self.assertRaises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(old).verify(body.replace(b"17", b"18"), headers)
        new = self.server.command("webhook", "rotate", "shop", "--overlap", "24h")
        self.assertNotEqual(new, old)
        # The server reads its webhooks twice a second.
        while " " not in headers["webhook-signature"]:
            chat.send("@alice", "again")
            headers, body = self.endpoint.next()
        for secret in (old, new):
            self.assert_verified(secret, headers, body)
        answer = self.server.command("webhook", "test", "shop")
        self.assertEqual(json.loads(answer)["status"], 204)
        while json.loads(body)["type"] != "webhook.test":
            headers, body = self.endpoint.next()
        self.assert_verified(new, headers, body)
