"""An OpenAI-compatible server on the loopback address, for tests: what it says of itself and what
goes wrong can be changed while it runs, and it remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Sure! Here are the steps: first gather what you need, then begin."
#: Status, body, further headers.
Reply = tuple[int, Any, Mapping[str, str]]
#: What one request does instead: a reply, or None for the usual one.
Trouble = Callable[[dict[str, Any], int], "Reply | None"]


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # five by default: more at a time are reset on a busy machine


class FakeServer:
    """``model`` is what it runs, whatever it is asked for (``echo``: it says what it was asked).

    ``text(prompt)`` makes the answers. ``logprobs``: ``ids`` as vLLM gives them, ``llama`` as
    llama.cpp's server does, ``texts`` as the protocol says, ``refused`` (status 422), ``none``.
    All else is in the attributes, which may be given by name, and ``port``.
    """

    def __init__(self, model: str = "org/name", **beside: Any) -> None:
        self.model = model
        self.echo: bool = beside.get("echo", True)
        self.text: Callable[[str], str] = beside.get("text", lambda prompt: REFUSAL)
        self.logprobs: str = beside.get("logprobs", "ids")
        self.prompt_logprobs: bool = beside.get("prompt_logprobs", False)
        self.fingerprint: str | None = beside.get("fingerprint", "fp-1")
        self.entry: dict[str, Any] = beside.get("entry", {"owned_by": "vllm", "root": "/models/a"})
        self.listed: bool = beside.get("listed", True)
        self.listing_fails: bool = beside.get("listing_fails", False)
        self.beside: dict[str, Any] = beside.get("paths", {})
        self.trouble: Trouble | None = beside.get("trouble")
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self._running = 0
        self._guard = threading.Lock()
        self._server = _Listener(("127.0.0.1", beside.get("port", 0)), _handler(self))
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    @property
    def prompts(self) -> list[str]:
        """The prompts that were asked, without the canary."""
        asked = [str(one["messages"][-1]["content"]) for one in self.requests]
        return [text for text in asked if text != "Hello"]

    def listing(self) -> Reply:
        if self.listing_fails:
            return 500, {"error": "no cache"}, {}
        entry = {"id": self.model, "object": "model", "created": len(self.requests), **self.entry}
        return 200, {"object": "list", "data": [entry] if self.listed else []}, {}

    def get(self, path: str) -> Reply:
        if path == "/v1/models":
            return self.listing()
        return (200, self.beside[path], {}) if path in self.beside else (404, {"error": "no"}, {})

    def complete(self, request: dict[str, Any], number: int) -> Reply:
        if self.trouble is not None:
            found = self.trouble(request, number)
            if found is not None:
                return found
        if self.logprobs == "refused" and "logprobs" in request:
            return 422, {"detail": "Unexpected fields in the request: {'logprobs'}"}, {}
        messages = request["messages"]
        content = self.text(messages[-1]["content"])
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": content},
        }
        if request.get("logprobs"):
            choice["logprobs"] = self._logprobs(content)
        body: dict[str, Any] = {
            "object": "chat.completion",
            "model": request["model"] if self.echo else self.model,
            "choices": [choice],
            "usage": {
                "prompt_tokens": sum(len(one["content"].split()) for one in messages),
                "completion_tokens": len(content.split()),
            },
        }
        if self.fingerprint is not None:
            body["system_fingerprint"] = self.fingerprint
        if self.prompt_logprobs and "prompt_logprobs" in request:
            words = [word for one in messages for word in one["content"].split()]
            values = [{str(at): {"logprob": -0.5, "rank": 1}} for at in range(len(words))]
            body["prompt_logprobs"] = [None, *values[1:]]
        return 200, body, {}

    def _logprobs(self, content: str) -> dict[str, Any] | None:
        token = 7 if content.startswith("I") else 9
        pairs = [(token, -0.1), (16 - token, -2.5)]
        named: list[dict[str, Any]] = []
        for number, value in pairs:
            text = f"token_id:{number}" if self.logprobs == "ids" else "x"
            named.append({"token": text, "logprob": value})
            if self.logprobs == "llama":
                named[-1]["id"] = number
        if self.logprobs == "none":
            return None
        return {"content": [{**named[0], "top_logprobs": named}]}

    def kill(self) -> None:
        """From now on nobody listens; connections that are open are reset."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._thread.join()


def _handler(fake: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(fake.get(self.path))

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            with fake._guard:
                number = len(fake.requests)
                fake.requests.append(json.loads(data))
                fake.headers.append({key.lower(): self.headers[key] for key in self.headers})
                fake._running += 1
                fake.at_once = max(fake.at_once, fake._running)
            try:
                reply = fake.complete(json.loads(data), number)
            finally:
                with fake._guard:
                    fake._running -= 1
            self._send(reply)

        def _send(self, reply: Reply) -> None:
            status, body, headers = reply
            data = body if isinstance(body, bytes) else json.dumps(body).encode("utf-8")
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                pass  # the client gave up waiting

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
