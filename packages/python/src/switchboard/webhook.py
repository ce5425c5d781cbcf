"""Signatures of webhooks and hooks, as Standard Webhooks (standardwebhooks.com) describe them."""

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

# How far a request's time may be from now, in seconds.
TOLERANCE = 300


class BadSignature(Exception):
    """The request is not signed with the secret, or its time is too far from now."""


class Headers(Protocol):
    """A dictionary, or the headers of a request in the standard library or a framework."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Names and values."""
        ...


def verify(
    secrets: str | Sequence[str],
    body: bytes,
    headers: Headers,
    *,
    tolerance: int = TOLERANCE,
    now: float | None = None,
) -> dict[str, Any]:
    """Verifies a request and returns its decoded body, with `type`, `timestamp` and `data`.

    `secrets` is `whsec_…`, or several while one replaces another; `body` is the body as it came, byte for byte; the names of
    `headers` may have any case, or the form of WSGI (`HTTP_WEBHOOK_ID`).
    """
    found = {re.sub("^http-", "", name.lower().replace("_", "-")): value for name, value in headers.items()}
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    for name in names:
        if not found.get(name):
            raise BadSignature(f"the request has no {name}")
    message_id, timestamp, signatures = (found[name] for name in names)
    now = time.time() if now is None else now
    if not re.fullmatch("[0-9]{1,15}", timestamp) or abs(int(now) - int(timestamp)) > tolerance:
        raise BadSignature("the time of the request is too far from now; is a clock wrong?")
    # Every signature is compared with every secret, so that the duration says nothing about them.
    good = False
    for secret in [secrets] if isinstance(secrets, str) else secrets:
        expected = sign(secret, message_id, int(timestamp), body).encode()
        for signature in signatures.split(" "):
            good = hmac.compare_digest(expected, signature.encode()) or good
    if not good:
        raise BadSignature("no signature of the request is made with this secret")
    try:
        payload = json.loads(body)
    except ValueError:
        payload = None
    if not isinstance(payload, dict) or not isinstance(payload.get("type"), str):
        raise BadSignature("the request is signed, but it is no webhook")
    return payload


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`, for tests of an application."""
    try:
        key = base64.b64decode(secret.strip().removeprefix("whsec_"), validate=True)
    except binascii.Error as cause:
        raise ValueError("a secret is `whsec_` and base64") from cause
    if not key:
        raise ValueError("a secret is `whsec_` and base64")
    content = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()}"
