"""POST requests over a connection that is kept open between them, one for each thread."""

import http.client
import os
import socket
import threading
import time
from urllib.parse import urlsplit

from .errors import Offline, TimedOut

# The largest answer that is read, in bytes: a page of the server has about 1 MiB.
MAX_ANSWER = 64 * 1024 * 1024
CHUNK = 64 * 1024

# What a connection fails with that the server has closed since its last request.
_CLOSED = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


class Http:
    """The connections to one server."""

    def __init__(self, url: str, connect_timeout: float) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        self._path = parts.path
        self._connect_timeout = connect_timeout
        self._local = threading.local()

    def post(
        self, path: str, headers: dict[str, str], body: bytes, timeout: float
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """The status, the headers and the body of the answer."""
        deadline = time.monotonic() + timeout
        for first in (True, False):
            connection, reused = self._connection()
            try:
                return self._exchange(connection, path, headers, body, deadline)
            except TimeoutError as cause:
                connection.close()
                raise TimedOut("no answer in time", "timed_out", retryable=True) from cause
            except (OSError, http.client.HTTPException) as cause:
                connection.close()
                # The server may have closed the connection while it was idle. That is no failure of the command.
                if not (first and reused and isinstance(cause, _CLOSED)):
                    message = f"the server cannot be reached: {cause!r}"
                    raise Offline(message, "offline", retryable=True) from cause
        raise AssertionError("the second attempt has returned or raised")

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        headers: dict[str, str],
        body: bytes,
        deadline: float,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        if connection.sock is None:
            connection.timeout = max(0.001, min(self._connect_timeout, deadline - time.monotonic()))
            connection.connect()
        stream: socket.socket = connection.sock
        stream.settimeout(_left(deadline))
        connection.request("POST", self._path + path, body, headers)
        response = connection.getresponse()
        answer = bytearray()
        while True:
            stream.settimeout(_left(deadline))
            chunk = response.read(CHUNK)
            if not chunk:
                return response.status, response.headers, bytes(answer)
            answer += chunk
            if len(answer) > MAX_ANSWER:
                raise http.client.HTTPException(f"an answer of more than {MAX_ANSWER} bytes")

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """This thread's connection, and whether it has served a request. After a fork it is another one."""
        kept: _Kept | None = getattr(self._local, "kept", None)
        if kept is not None and kept.process == os.getpid():
            return kept.connection, kept.connection.sock is not None
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        kept = _Kept(kind(self._host, self._port))
        self._local.kept = kept
        return kept.connection, False


class _Kept:
    """A connection that is closed when its thread or its client goes."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.process = os.getpid()
        self.connection = connection

    def __del__(self) -> None:
        self.connection.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
