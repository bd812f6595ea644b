"""The servers of one session: each is asked once what it runs before anything is asked of it, and
again before a verdict."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from pytest_compsec.config.endpoints import EndpointEntry
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.served.facts import compare
from pytest_compsec.models.served.pin import EndpointPin, NoFiles, Served
from pytest_compsec.models.served.requests import ChatServer


class CheckedServers:
    """Makes the arms of served models. Safe to use from several threads."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._compared: set[tuple[str, str | None]] = set()

    def arm(
        self,
        model: str,
        variant: str | None,
        entry: EndpointEntry,
        pin: EndpointPin,
        *,
        system: str | None,
        chat_template_kwargs: Mapping[str, object],
    ) -> Arm:
        """The arm, its server compared with the pin.

        Raises IntegrityError where the server says that it runs something else, and what
        :class:`ChatServer` raises where it cannot be asked: then nothing of it is measured, not
        even from answers of earlier runs.
        """
        served = Served.of(entry, pin)
        label = model if variant is None else f"{model}-{variant}"

        def compare_again() -> None:
            server = ChatServer(label, served)
            try:
                compare(server)
            finally:
                server.close()

        with self._guard:
            key = (pin.digest, entry.api_key_env)
            if key not in self._compared:
                compare_again()
                self._compared.add(key)
        return Arm(
            model=model,
            variant=variant,
            files=NoFiles(label, pin, compare_again),
            system=system,
            chat_template_kwargs=dict(chat_template_kwargs),
            served=served,
        )
