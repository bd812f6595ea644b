"""What is known of a served model before it is asked, and what stands where its files would be.

Plain data: the lock holds an :class:`EndpointPin`, an arm a :class:`Served`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pytest_compsec.errors import MeasurementError
from pytest_compsec.models.arm import StagedFiles, digest_of

if TYPE_CHECKING:
    from pytest_compsec.config.endpoints import EndpointEntry

#: Stands for the device and the float type of a served model, in reports and in the lock.
SERVED = "served"


@dataclasses.dataclass(frozen=True)
class EndpointPin:
    """What the lock says of a served model: its URL and name, the ``revision`` that the config
    names, the seed of every request, and ``facts``, what the server says of it and keeps saying
    (see :mod:`pytest_compsec.models.served.facts`)."""

    url: str
    model: str
    revision: str | None = None
    seed: int | None = None
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 (hex) over all of it. Two servers are two models: nothing shows them to be one."""
        return digest_of(
            {"served": 1, "url": self.url, "model": self.model, "revision": self.revision,
             "seed": self.seed, "facts": dict(self.facts)}
        )  # fmt: skip

    def __str__(self) -> str:
        return f"{self.model} at {self.url}"


@dataclasses.dataclass(frozen=True)
class Served:
    """A served model as an arm has it: the pin, and how to ask, which decides no answer."""

    pin: EndpointPin
    api_key_env: str | None = None
    timeout: float = 60.0
    retries: int = 4
    concurrency: int = 16

    @classmethod
    def of(cls, entry: EndpointEntry, pin: EndpointPin | None = None) -> Served:
        """The config's entry; ``pin`` is the lock's (None: what the entry alone says)."""
        pin = pin or EndpointPin(entry.url, entry.model, entry.revision, entry.seed)
        return cls(pin, entry.api_key_env, entry.timeout, entry.retries, entry.concurrency)


class NoFiles(StagedFiles):
    """Stands for the files of a served model: a digest for identities, and nothing to open."""

    def __init__(self, name: str, pin: EndpointPin, recheck: Callable[[], None]) -> None:
        for field, value in (
            ("tree", pin.digest),
            ("entry", None),
            ("provenance", {}),
            ("recheck", recheck),
            ("_name", name),
            ("_pin", pin),
        ):
            object.__setattr__(self, field, value)

    @property
    def directory(self) -> Path:
        """There is none. Raises MeasurementError, for whoever looks for files."""
        self.absent("Its files are")

    def absent(self, what: str) -> NoReturn:
        """Raise the MeasurementError of whatever needs more than answers."""
        raise not_here(self._name, self._pin, what)

    _name: str
    _pin: EndpointPin

    def __repr__(self) -> str:
        return f"<NoFiles {self._pin}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NoFiles) and self.tree == other.tree

    def __hash__(self) -> int:
        return hash(self.tree)


def not_here(name: str, pin: EndpointPin, what: str) -> MeasurementError:
    """``what`` of a served model is not to be had: "Its files are"."""
    return MeasurementError(
        f"{name} is served ({pin}), so that only its answers can be had. {what} not here: to look "
        "inside, name the model's files as 'source' in a variant of its own"
    )
