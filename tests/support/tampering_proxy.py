"""An HTTP proxy that changes what passes through it, to force faults on a healthy server."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Json = dict[str, Any]


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    """With the library's 5, callers that come at the same time would wait."""


@dataclass
class Answer:
    """The response to the client."""

    status: int
    body: Json


@dataclass
class Call:
    """A request of the client."""

    path: str
    body: Json
    key: str | None


def is_about_passages(call: Call) -> bool:
    """Return whether the call asks for reasoning or a verdict, and does not probe the server."""
    # The prompts of probes are one text or the ids of the labels.
    return call.path == "/v1/completions" and len(call.body["prompt"]) > 2


@dataclass
class TamperingProxy:
    """Passes requests on to `target`, through the hooks that a test has set.

    Attributes:
        refuse: Called with every call. An answer that it returns replaces the server's.
        change_request: Called with the body of every call before it is passed on.
        change_answer: Called with every call and the server's answer.
        delay: Seconds before every answer of /v1/completions.
        calls: All calls so far.
        most_running: The most completions that ran at the same time.
    """

    target: str
    refuse: Callable[[Call], Answer | None] = lambda call: None
    change_request: Callable[[Json], Json] = lambda body: body
    change_answer: Callable[[Call, Json], Json] = lambda call, body: body
    delay: float = 0.0
    calls: list[Call] = field(default_factory=list)
    most_running: int = 0
    _running: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer({})

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                self.answer(json.loads(self.rfile.read(length)))

            def answer(self, body: Json) -> None:
                key = (self.headers["Authorization"] or "").removeprefix("Bearer ") or None
                answer = proxy.handle(Call(self.path, body, key), self.command)
                content = json.dumps(answer.body).encode()
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                # A client that has given up is one of the faults.
                with contextlib.suppress(ConnectionError):
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def _wait(self) -> None:
        with self._lock:
            self._running += 1
            self.most_running = max(self.most_running, self._running)
        time.sleep(self.delay)
        with self._lock:
            self._running -= 1

    def handle(self, call: Call, method: str) -> Answer:
        self.calls.append(call)
        if call.path == "/v1/completions":
            self._wait()
        refusal = self.refuse(call)
        if refusal is not None:
            return refusal
        body = self.change_request(call.body)
        request = urllib.request.Request(
            f"{self.target}{call.path}",
            data=json.dumps(body).encode() if method == "POST" else None,
            headers={"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return Answer(reply.status, self.change_answer(call, json.load(reply)))
        except urllib.error.HTTPError as error:
            return Answer(error.code, json.loads(error.read() or b"{}"))
