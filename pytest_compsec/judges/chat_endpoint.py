"""Requests to an OpenAI-compatible chat endpoint: tried again where that may help, and a failure
that says what to do. Standard library only.

The key is sent in one header and appears nowhere else: redirects are not followed (they would
carry it to another host), and whatever a server says is shown without it.
"""

from __future__ import annotations

import dataclasses
import email.message
import http.client
import ipaddress
import json
import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import IO, Any
from urllib.parse import urlsplit

from pytest_compsec.errors import ConfigError, MeasurementError

MAX_REPLY_BYTES = 1 << 20
FIRST_PAUSE = 0.5  # seconds; doubled for each further try
LONGEST_PAUSE = 30.0
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})

Message = dict[str, str]


@dataclasses.dataclass(frozen=True)
class ChatEndpoint:
    """``url`` ends before ``/chat/completions``. ``timeout`` in seconds a request; ``retries``
    further tries; ``wait(seconds)`` pauses and says whether to give up (another request failed)."""

    url: str
    model: str
    key: str | None = dataclasses.field(default=None, repr=False)
    timeout: float = 60.0
    retries: int = 3
    max_tokens: int = 16

    def complete(
        self, messages: Sequence[Message], wait: Callable[[float], bool] | None = None
    ) -> str | None:
        """The text of the answer; None when the server answered without a text.

        Raises MeasurementError, without the key, when no answer can be had.
        """
        pause = wait or threading.Event().wait
        for attempt in range(self.retries + 1):
            try:
                return _text_of(self._post(messages), self)
            except _FailedError as failure:
                last = failure
            if not last.again or attempt == self.retries:
                break
            delay = min(LONGEST_PAUSE, max(FIRST_PAUSE * 2**attempt, last.pause))
            if pause(delay):
                break
        tries = attempt + 1
        raise MeasurementError(
            f"the judge at {self.url} (model {self.model}) gave no answer after {tries} "
            f"{'try' if tries == 1 else 'tries'}: {self._shown(last.reason)}. Nothing was judged. "
            f"{last.advice}"
        )

    def _post(self, messages: Sequence[Message]) -> bytes:
        body = {
            "model": self.model,
            "messages": list(messages),
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "stream": False,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode("ascii"), headers
        )
        try:
            with _opener(self.url).open(request, timeout=self.timeout) as reply:
                data: bytes = reply.read(MAX_REPLY_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise _from_status(error) from None
        except (urllib.error.URLError, TimeoutError, OSError, http.client.HTTPException) as error:
            raise _from_connection(error, self.timeout) from None
        if len(data) > MAX_REPLY_BYTES:
            raise _FailedError(f"its answer is larger than {MAX_REPLY_BYTES} bytes", _NOT_A_SERVER)
        return data

    def _shown(self, text: str) -> str:
        """What others wrote, on one line, bounded, printable, and without the key."""
        if self.key:
            text = text.replace(self.key, "***")
        line = "".join(char if char.isprintable() else " " for char in text)
        return " ".join(line.split())[:400]


_START = "Start the server or correct 'url' under judge.endpoint in compsec.yaml, then run again."
_NOT_A_SERVER = (
    "This is no OpenAI-compatible server, or another path of one: 'url' must end before "
    "/chat/completions."
)


class _FailedError(Exception):
    """One try failed. ``again``: another may do better, after ``pause`` seconds at least."""

    def __init__(
        self, reason: str, advice: str, *, again: bool = False, pause: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice
        self.again = again
        self.pause = pause


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> None:
        return None  # urllib then raises the HTTPError of the redirect itself


def _opener(url: str) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))  # no proxy leads to this machine
    return urllib.request.build_opener(*handlers)


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def key_of(label: str, variable: str | None) -> str | None:
    """The key in an environment variable; None where no variable is named. ``label`` says whose.

    Raises ConfigError, without the key, when the variable is not set or holds no key.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"{label}: the environment variable {variable} (api_key_env) is not set. Set it to the "
            "key, or leave 'api_key_env' out for a server without one"
        )
    if not key.isascii() or not key.isprintable():
        raise ConfigError(
            f"{label}: the environment variable {variable} holds characters that no key has"
        )
    return key


def _from_status(error: urllib.error.HTTPError) -> _FailedError:
    status = error.code
    try:
        detail = error.read(2000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        detail = ""
    reason = f"HTTP status {status} {error.reason or ''}: {detail}".rstrip(": ")
    if status in (401, 403):
        advice = "Check the key: the variable that 'api_key_env' names, and what it may use."
    elif status in (404, 405):
        advice = f"Check 'url' and 'model' under judge.endpoint. {_NOT_A_SERVER}"
    elif 300 <= status < 400:
        advice = "Redirects are not followed: give the final address as 'url'."
    elif status == 429:
        advice = "Lower 'concurrency' or raise 'retries'; what was judged so far is kept."
    elif status in _AGAIN:
        advice = "Look at the server's own log, then run again."
    else:
        advice = "The server refuses the request: check 'model' and 'max_new_tokens'."
    return _FailedError(reason, advice, again=status in _AGAIN, pause=_retry_after(error.headers))


def _from_connection(error: Exception, timeout: float) -> _FailedError:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _FailedError(str(cause), "Its certificate is not trusted here: install its issuer.")
    if isinstance(cause, TimeoutError):
        advice = "Raise 'timeout' under judge.endpoint, lower 'concurrency', or start the server."
        return _FailedError(f"no answer within {timeout:g} s", advice, again=True)
    reason = str(cause) or type(cause).__name__
    return _FailedError(f"it cannot be reached ({reason})", _START, again=True)


def _retry_after(headers: email.message.Message | None) -> float:
    try:
        return max(0.0, float(headers["Retry-After"])) if headers is not None else 0.0
    except (TypeError, ValueError):  # absent, or a date
        return 0.0


def _text_of(data: bytes, endpoint: ChatEndpoint) -> str | None:
    try:
        choice = json.loads(data)["choices"][0]
        content: Any = choice["message"]["content"]
    except (ValueError, LookupError, TypeError):
        shown = data[:200].decode("utf-8", "replace")
        reason = f"what it answers is no chat completion: {shown!r}"
        raise _FailedError(reason, _NOT_A_SERVER) from None
    return content if isinstance(content, str) else None
