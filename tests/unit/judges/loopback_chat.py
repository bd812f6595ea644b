"""An OpenAI-compatible server on the loopback address, for tests: scripted, and it remembers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

#: Status, body, further headers.
Reply = tuple[int, bytes, dict[str, str]]


def completion(text: object) -> Reply:
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    return 200, json.dumps(body).encode("utf-8"), {"Content-Type": "application/json"}


class LoopbackChat:
    """``answer(request, number)`` makes the reply to the ``number``-th request (from 0)."""

    def __init__(self, answer: Callable[[dict[str, Any], int], Reply]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.at_once = self._running = 0
        self._guard = threading.Lock()
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                with chat._guard:
                    number = len(chat.requests)
                    chat.requests.append(json.loads(data))
                    chat.headers.append(dict(self.headers))
                    chat.paths.append(self.path)
                    chat._running += 1
                    chat.at_once = max(chat.at_once, chat._running)
                try:
                    status, body, headers = answer(chat.requests[number], number)
                finally:
                    with chat._guard:
                        chat._running -= 1
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # the client gave up waiting

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def __enter__(self) -> LoopbackChat:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
