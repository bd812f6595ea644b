"""Two served arms must be two models: a model that is compared with itself loses nothing."""

from __future__ import annotations

from urllib.parse import urlsplit

from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.served.pin import EndpointPin

#: What tells two models apart, or shows them to be one: what was loaded.
_LOADED = ("digest", "root")
_PORTS = {"http": 80, "https": 443}


def require_two_models(original: Arm, compressed: Arm) -> None:
    """Raise NotCompressedError where both arms are served and what is known of them shows one
    model, or, on one server, does not show two."""
    if original.served is None or compressed.served is None:
        return
    first, second = original.served.pin, compressed.served.pin
    problem = _problem(first, second)
    if problem is not None:
        raise NotCompressedError(
            f"{compressed.name}: it and {original.name} {problem}. A model that is compared with "
            "itself loses nothing: serve the two at addresses of their own, or under names of "
            "which the server tells what it loaded, and run `compsec pin`"
        )


def _problem(first: EndpointPin, second: EndpointPin) -> str | None:
    one_server = _server(first) == _server(second)
    if one_server and first.model == second.model:
        return f"are the same model, {first}"
    if "digest" in first.facts and first.facts["digest"] == second.facts.get("digest"):
        return f"have the same digest, {first.facts['digest']}"
    if not one_server:
        return None
    for name in _LOADED:
        if name in first.facts and name in second.facts:
            if first.facts[name] != second.facts[name]:
                return None
            return f"are both {first.facts[name]!r} ({name}) on one server"
    if "id" not in first.facts or "id" not in second.facts:
        return "are names on one server that does not list both of them, and may answer as one"
    return None


def _server(pin: EndpointPin) -> tuple[str | None, int | None]:
    """Host and port: what else a URL says is a path of one server."""
    parts = urlsplit(pin.url)
    return parts.hostname, parts.port or _PORTS.get(parts.scheme.lower())
