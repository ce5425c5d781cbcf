"""Helpers of the tests: the real server, and a server whose answers a test decides."""

import json
import os
import queue
import re
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

from switchboard import Client

ROOT = Path(__file__).parents[3]
BINARY = os.environ.get("SWITCHBOARD_BINARY", str(ROOT / "target/debug/switchboard"))
SECRET = "a secret of the tests that is long enough"


class Server:
    """The real server, on a data directory of its own."""

    def __init__(self, **settings: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="switchboard-python-")
        settings = {"SWITCHBOARD_AUTH_SECRET": SECRET} | settings
        self._env = {"PATH": os.environ["PATH"]} | settings
        self.url = self._start("127.0.0.1:0")
        self.key = self._create_key("shop", "act,feed,moderate")

    def client(self, as_user: str = "shop", timeout: float = 10.0) -> Client:
        return Client(self.url, self.key, as_user=as_user, timeout=timeout)

    def admin(self) -> Client:
        """A client with a key that may do everything."""
        return Client(self.url, self._create_key("admin", "admin"), as_user="shop")

    def command(self, *arguments: str) -> str:
        """Runs a command of the command line on the server's data."""
        return subprocess.check_output(
            [BINARY, *arguments, "--data", self._directory.name],
            env=self._env,
            stderr=subprocess.DEVNULL,
            text=True,
        ).strip()

    def kill(self) -> None:
        """Kills the server, as a power failure would."""
        self._process.kill()
        self._process.wait()
        self._output.close()

    def restart(self) -> None:
        """Starts the server again, at the same address."""
        self._start(self.url.removeprefix("http://"))

    def close(self) -> None:
        self.kill()
        self._directory.cleanup()

    def _create_key(self, name: str, scopes: str) -> str:
        command = [BINARY, "key", "create", name, "--scope", scopes, "--data", self._directory.name]
        output = subprocess.check_output(command, env=self._env, stderr=subprocess.DEVNULL, text=True)
        found = re.search(r"sbk_\S+", output)
        assert found
        return found[0]

    def _start(self, address: str) -> str:
        self._process = subprocess.Popen(
            [BINARY, "serve", "--listen", address, "--data", self._directory.name],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout
        self._output: IO[str] = self._process.stdout
        said = ""
        for line in self._output:
            said += line
            if found := re.search(r"listening on (http://127\.0\.0\.1:\d+)", line):
                return found[1]
        raise AssertionError(f"the server ended:\n{said}")


def problem(status: int, code: str, retryable: bool, **fields: Any) -> tuple[int, bytes]:
    """A problem document as the server sends it."""
    return status, json.dumps({"code": code, "detail": f"it is {code}", "retryable": retryable} | fields).encode()


class Scripted:
    """A server with an answer for each request: a status and a body, `close` or `hang`. Further requests go on to `target`.

    A function in place of the list answers every request.
    """

    def __init__(
        self,
        answers: list[tuple[int, bytes] | str] | Callable[[dict[str, Any]], tuple[int, bytes]],
        target: str = "",
    ) -> None:
        self.requests: list[tuple[Any, dict[str, Any]]] = []
        self._ended = threading.Event()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                scripted.requests.append((self.client_address, json.loads(body)))
                if callable(answers):
                    answer: tuple[int, bytes] | str = answers(json.loads(body))
                else:
                    answer = answers.pop(0) if answers else forward(target + self.path, self.headers, body)
                if isinstance(answer, str):
                    if answer == "hang":
                        scripted._ended.wait()
                    self.close_connection = True
                    return
                self.send_response(answer[0])
                self.send_header("content-length", str(len(answer[1])))
                self.send_header("x-request-id", "r-17")
                self.end_headers()
                self.wfile.write(answer[1])

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()


class Endpoint:
    """Takes the requests of a webhook, and keeps their headers and bodies."""

    def __init__(self) -> None:
        requests: queue.SimpleQueue[tuple[dict[str, str], bytes]] = queue.SimpleQueue()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                requests.put((dict(self.headers), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._requests = requests
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def next(self) -> tuple[dict[str, str], bytes]:
        return self._requests.get(timeout=20)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def forward(url: str, headers: Any, body: bytes) -> tuple[int, bytes]:
    names = ("authorization", "content-type")
    request = urllib.request.Request(url, body, {name: headers[name] for name in names})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def milliseconds(call: Callable[[], Any]) -> float:
    begin = time.monotonic()
    call()
    return (time.monotonic() - begin) * 1_000
