"""``compsec pin`` of a served model: ask the server what it is, and keep what stays the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pytest_compsec.config.endpoints import EndpointEntry
from pytest_compsec.models.served.facts import pinned_facts
from pytest_compsec.models.served.pin import EndpointPin, Served
from pytest_compsec.models.served.requests import ChatServer
from pytest_compsec.models.served.wording import NOT_VERIFIED

Notify = Callable[[str], None]


def pin_endpoint(label: str, entry: EndpointEntry, notify: Notify) -> EndpointPin:
    """What the lock says of a served model; ``notify`` is told what it cannot say.

    Raises IntegrityError when the server answers for another model than the config names, and what
    :class:`ChatServer` raises.
    """
    notify(f"asking {entry.url} for {entry.model}")
    served = Served.of(entry)
    server = ChatServer(label, served)
    try:
        facts, notes = pinned_facts(server)
    finally:
        server.close()
    for note in (f"{NOT_VERIFIED}, only what the server says of itself", *notes):
        notify(f"{label} is served by {entry.url}: {note}")
    return dataclasses.replace(served.pin, facts=facts)
