"""``compsec verify`` of served models: what can be compared, and that the rest cannot."""

from __future__ import annotations

from pytest_compsec.config.endpoints import EndpointEntry
from pytest_compsec.errors import CompsecError, IntegrityError, MissingExtraError
from pytest_compsec.models.listing import Problem
from pytest_compsec.models.served.facts import compare
from pytest_compsec.models.served.pin import EndpointPin, Served
from pytest_compsec.models.served.requests import ChatServer
from pytest_compsec.models.served.wording import NOT_VERIFIED


def verify_served(
    label: str, entry: EndpointEntry, pin: EndpointPin
) -> tuple[tuple[Problem, ...], tuple[str, ...]]:
    """Problems and notes.

    A server that cannot be asked is a problem, so that `compsec verify` exits with 1: what was not
    compared must not come out as matching.
    """
    note = f"{label} is served ({pin}): {NOT_VERIFIED}, only what the server says of itself"
    try:
        server = ChatServer(label, Served.of(entry, pin))
        try:
            compare(server)
        finally:
            server.close()
    except IntegrityError as error:
        return (Problem("changed", pin.url, str(error)),), (note,)
    except MissingExtraError as error:
        return (Problem("missing", pin.url, str(error)),), (note,)
    except CompsecError as error:
        message = f"{label}: the server could not be compared with the lock: {error}"
        return (Problem("missing", pin.url, message),), (note,)
    return (), (note,)
