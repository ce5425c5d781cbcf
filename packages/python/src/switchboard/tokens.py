"""Tokens with which users connect."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

# The shortest secret that the server accepts, in bytes.
MIN_SECRET = 32
# The longest lifetime, in seconds: a larger number is probably one of milliseconds.
MAX_LIFETIME = 366 * 86_400


def mint_token(
    secret: str | bytes,
    user: str,
    *,
    lifetime: int = 3_600,
    issuer: str | None = None,
    audience: str | None = None,
    claims: Mapping[str, Any] | None = None,
) -> str:
    """A token for a user: a JWT with HS256, signed with the `secret` of the server's `[auth]`, at least 32 bytes.

    Send it over HTTPS, and only to the browser of the user whose identity you have checked. Line breaks at the end of the
    secret are ignored, so it may be the content of a file. `issuer` and `audience` are those of the server's configuration, if
    they are set there. For the other algorithms of the server, use a library such as PyJWT.
    """
    key = (secret.encode() if isinstance(secret, str) else secret).rstrip(b"\r\n")
    if len(key) < MIN_SECRET:
        raise ValueError(f"a secret has at least {MIN_SECRET} bytes")
    if key.strip() != key or b"\n" in key or b"\r" in key:
        raise ValueError("a secret is one line, without white space around it")
    if not user:
        raise ValueError("a token needs a user")
    if not 0 < lifetime <= MAX_LIFETIME:
        raise ValueError("a lifetime is in seconds, up to a year")
    # The server needs `iat` to refuse tokens that were made before a revocation.
    now = int(time.time())
    named = {"iss": issuer, "aud": audience}
    own = {name: value for name, value in named.items() if value is not None}
    payload = {**(claims or {}), **own, "sub": user, "iat": now, "exp": now + lifetime}
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(payload)}"
    return f"{signed}.{_base64url(hmac.digest(key, signed.encode(), hashlib.sha256))}"


def _part(value: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
