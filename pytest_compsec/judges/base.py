"""What every judge offers, whatever works behind it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pytest_compsec.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel


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


@dataclasses.dataclass(frozen=True)
class JudgeKind:
    """A kind of judge of another distribution: ``judge: {name: {options}}`` in ``compsec.yaml``.

    ``options`` is a pydantic model of what stands there. ``make(options, root)`` gives the judge;
    relative paths among the options start from ``root``. It is called by ``compsec pin``, too, and
    should load what is large when it is first asked.
    """

    name: str
    options: type[BaseModel]
    make: Callable[[Any, Path], Judge]

    def judge(self, options: BaseModel, root: Path) -> Judge:
        """The judge. Raises ConfigError for one whose identity cannot be pinned."""
        made = self.make(options, root)
        if not isinstance(made, Judge):
            raise ConfigError(
                f"the judge {self.name!r} gives {type(made).__name__}, which lacks one of name, "
                "version, digest and refusals(prompts, responses)"
            )
        if not re.fullmatch(r"[0-9a-f]{64}", str(made.digest)):
            raise ConfigError(
                f"the judge {self.name!r} has the digest {made.digest!r}: it must be a sha256 "
                "(64 hexadecimal digits) over all that decides"
            )
        return made
