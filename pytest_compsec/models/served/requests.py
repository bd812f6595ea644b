"""Requests to a served model through the ``openai`` client, and failures that say what to do.

The client's own retries are used (408, 409, 429, 5xx and lost connections, exponential back-off
with jitter, ``Retry-After``). The key is sent in one header and appears nowhere else: redirects are
not followed, and whatever a server says is shown without it.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pytest_compsec.errors import MeasurementError, MissingExtraError
from pytest_compsec.judges.chat_endpoint import is_loopback, key_of
from pytest_compsec.models.served.pin import Served

#: Statuses with which servers refuse a field that they do not know.
UNKNOWN_FIELD = frozenset({400, 404, 405, 415, 422, 501})
#: Headers that the client takes from the environment, for another server than this one.
_FOREIGN_HEADERS = ("OpenAI-Organization", "OpenAI-Project")
_NEEDED_HEADERS = frozenset({"", "host", "content-type", "content-length", "authorization"})

Message = dict[str, str]


class UnreachableError(MeasurementError):
    """Nobody answered."""


class RefusedError(MeasurementError):
    """The server answered with a status that is no success."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        return (RefusedError, (str(self), self.status))


class ChatServer:
    """One server and one model of it. Safe to use from several threads.

    Raises MissingExtraError without the ``openai`` package, ConfigError when the variable of its
    key is not set.
    """

    def __init__(self, label: str, served: Served) -> None:
        if importlib.util.find_spec("openai") is None:
            raise MissingExtraError("openai", "endpoint", f"asking {label}, which is served,")
        import openai

        self.label = label
        self.served = served
        self._key = key_of(label, served.api_key_env)
        local = is_loopback(urlsplit(served.pin.url).hostname or "")
        self._http: Any = openai.DefaultHttpxClient(
            follow_redirects=False,
            timeout=served.timeout,
            trust_env=not local,  # no proxy leads to this machine
            event_hooks={"request": [self._only_our_key]},
        )
        self._client = openai.OpenAI(
            base_url=served.pin.url,
            api_key=self._key or "none",
            timeout=served.timeout,
            max_retries=served.retries,
            http_client=self._http,
        )

    def __repr__(self) -> str:
        return f"<ChatServer {self.served.pin}>"

    def complete(
        self, messages: Sequence[Message], *, max_tokens: int, extra: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The completion as JSON. ``extra`` are further fields of the request.

        Raises RefusedError, UnreachableError, or MeasurementError for what is no completion.
        """
        pin = self.served.pin
        body: dict[str, Any] = {"temperature": 0, "max_tokens": max_tokens, "stream": False}
        if pin.seed is not None:
            body["seed"] = pin.seed
        create: Any = self._client.chat.completions.with_raw_response.create
        return self._json(
            lambda: (
                create(
                    model=pin.model, messages=list(messages), extra_body={**body, **extra}
                ).http_response.text
            )
        )

    def models(self) -> dict[str, Any]:
        """``GET /models``. Tried twice only: some servers fail at it for good."""
        client = self._client.with_options(max_retries=min(self.served.retries, 1))
        listed: Any = client.models.with_raw_response.list
        return self._json(lambda: listed().http_response.text)

    def beside(self, path: str) -> Any:
        """What the server says at ``path`` from its root (``/info``), beside the protocol; None
        where it says nothing. Raises UnreachableError."""
        parts = urlsplit(self.served.pin.url)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            reply = self._http.get(f"{parts.scheme}://{parts.netloc}{path}", headers=headers)
            return json.loads(reply.text) if reply.status_code == 200 else None
        except ValueError:
            return None
        except Exception as error:  # whichever HTTP library the client has
            raise self._failed(UnreachableError, _reason(error), _START) from None

    def _json(self, ask: Any) -> dict[str, Any]:
        """The JSON object that ``ask`` brings; every failure as one of ours."""
        import openai

        served = self.served
        try:
            text = ask()
        except openai.APITimeoutError:
            reason = f"no answer within {served.timeout:g} s"
            advice = "Raise 'timeout' of the endpoint, lower 'concurrency', or look at its log."
            raise self._failed(UnreachableError, reason, advice, tries=True) from None
        except openai.APIConnectionError as error:
            reason = f"it cannot be reached ({_reason(error)})"
            raise self._failed(UnreachableError, reason, _START, tries=True) from None
        except openai.APIStatusError as error:
            raise self._refused(error.status_code, _body(error)) from None
        except openai.OpenAIError as error:
            raise self._failed(MeasurementError, str(error), _NOT_A_SERVER) from None
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            reason = f"what it answers is no JSON object: {text[:200]!r}"
            raise self._failed(MeasurementError, reason, _NOT_A_SERVER)
        return value

    def _refused(self, status: int, body: str) -> MeasurementError:
        again = status in (408, 409, 429) or status >= 500
        message = self._message(f"HTTP status {status}: {body}", _advice(status), again)
        return RefusedError(message, status)

    def _failed(
        self, kind: type[MeasurementError], reason: str, advice: str, *, tries: bool = False
    ) -> MeasurementError:
        return kind(self._message(reason, advice, tries))

    def _message(self, reason: str, advice: str, tries: bool) -> str:
        count = self.served.retries + 1
        after = f" after {count} {'try' if count == 1 else 'tries'}" if tries else ""
        shown = self.shown(reason)
        return f"{self.label}: {self.served.pin} gave no answer{after}: {shown}. {advice}"

    def shown(self, text: str) -> str:
        """What others wrote, on one line, bounded, printable, and without the key."""
        if self._key:
            text = text.replace(self._key, "***")
        line = "".join(char if char.isprintable() else " " for char in text)
        return " ".join(line.split())[:400]

    def _only_our_key(self, request: Any) -> None:
        """Before each request leaves: no key and no account of another server goes with it."""
        named = os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines()
        for name in (*_FOREIGN_HEADERS, *(line.partition(":")[0].strip() for line in named)):
            if name.lower() not in _NEEDED_HEADERS:
                request.headers.pop(name, None)
        if self._key is None:
            request.headers.pop("Authorization", None)

    def close(self) -> None:
        self._client.close()


_START = "Start the server or correct 'url' of the endpoint, then run again; answers are kept."
_NOT_A_SERVER = (
    "This is no OpenAI-compatible server, or another path of one: 'url' must end before "
    "/chat/completions."
)


def _advice(status: int) -> str:
    if status in (401, 403):
        return "Check the key: the variable that 'api_key_env' names, and what it may use."
    if status in (404, 405):
        return f"Check 'url' and 'model' of the endpoint. {_NOT_A_SERVER}"
    if 300 <= status < 400:
        return "Redirects are not followed: give the final address as 'url'."
    if status == 429:
        return "Lower 'concurrency' or raise 'retries'; answers so far are kept."
    if status >= 500 or status in (408, 409):
        return "Look at the server's own log, then run again; answers so far are kept."
    return "The server refuses the request: check 'model', max_new_tokens, chat_template_kwargs."


def _body(error: Any) -> str:
    try:
        return str(error.response.text)[:2000]
    except Exception:
        return str(error)


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(cause) or type(cause).__name__
