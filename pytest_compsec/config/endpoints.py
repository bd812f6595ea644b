"""``endpoint:`` of a model in ``compsec.yaml``: a server that answers for it over the OpenAI
chat-completions protocol, and the rules for URLs and keys that every server of the file shares."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from pytest_compsec.config.base import Section

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ServerFields(Section):
    """How any server of the file is reached. ``url`` ends before ``/chat/completions``; ``model``
    is the name under which it answers. The key is read from the environment variable
    ``api_key_env``; ``timeout`` is in seconds a request."""

    url: str
    """Where the server answers, up to and without ``/chat/completions``."""
    model: str = Field(min_length=1)
    """The name under which the server knows the model."""
    api_key_env: str | None = None
    """The environment variable that holds the key; the key itself is never in this file."""
    timeout: float = Field(default=60, gt=0, le=3600)
    """Seconds that one request may take."""

    @field_validator("url")
    @classmethod
    def _is_a_plain_url(cls, value: str) -> str:
        return plain_url(value)

    @field_validator("api_key_env")
    @classmethod
    def _is_a_variable(cls, value: str | None) -> str | None:
        return None if value is None else variable_name(value)

    @model_validator(mode="after")
    def _key_stays_secret(self) -> ServerFields:
        if self.api_key_env is not None:
            require_secret_transport(self.url)
        return self


class EndpointEntry(ServerFields):
    """A model behind a URL. ``revision`` is what it is said to run, compared where the server
    tells; ``seed`` goes with every request (null: none does); ``retries`` are further tries;
    ``concurrency`` requests are under way at a time."""

    revision: str | None = Field(default=None, min_length=1)
    """What the server is said to run, compared with what it says of itself where it does."""
    seed: int | None = Field(default=0, ge=0, lt=2**31)
    """Goes with every request; ``null``: none does."""
    retries: int = Field(default=4, ge=0, le=20)
    """Further tries of a request that failed."""
    concurrency: int = Field(default=16, ge=1, le=256)
    """Requests under way at a time."""

    @field_validator("model", "revision")
    @classmethod
    def _is_printable(cls, value: str | None) -> str | None:
        if value is not None and (not value.isprintable() or value != value.strip()):
            raise ValueError("holds characters, or spaces at its ends, that no name has")
        return value


def plain_url(value: str) -> str:
    """The URL without a slash at its end. Raises ValueError unless it is http(s), ends before
    ``/chat/completions`` and holds no secret."""
    if not value.isascii() or any(char.isspace() or ord(char) < 32 for char in value):
        raise ValueError("holds spaces or characters that no URL has")
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("must be like http://127.0.0.1:8000/v1 or https://host/v1")
    if parts.username is not None or parts.password is not None or parts.query:
        raise ValueError(
            "holds a user name, a password or a query, and this file is committed: name the "
            "environment variable that has the key with 'api_key_env'"
        )
    if parts.fragment or parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError("must end before /chat/completions, as in https://host/v1")
    return value.rstrip("/")


def variable_name(value: str) -> str:
    """The name of an environment variable. Raises ValueError for anything else."""
    if _VARIABLE.fullmatch(value) is None:
        # Not repeated in the message: it may be the key itself.
        raise ValueError("must be the NAME of an environment variable, never the key")
    return value


def require_secret_transport(url: str) -> None:
    """Raise ValueError where a key would cross a network in plain text."""
    # Only for the few configs that have a key: it imports an HTTP client.
    from pytest_compsec.judges.chat_endpoint import is_loopback

    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError(
            f"'api_key_env' would send its key unencrypted to {parts.hostname}: use https://, or "
            "an SSH tunnel to a loopback address"
        )
