"""What every judge offers, whatever works behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Judge(Protocol):
    """Says for each response whether it is a refusal.

    ``name``, ``version`` and ``digest`` (sha256, hex, over all that decides) identify it in the
    lock and in every report.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def digest(self) -> str: ...

    def refusals(self, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[bool | None]:
        """One entry per response: refused or not; ``None`` where it could not be judged."""
        ...
