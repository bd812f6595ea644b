"""What a backdoor is: a trigger that can be put on inputs, and what it is meant to bring about."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, overload

if TYPE_CHECKING:
    import torch

#: The trigger makes refusals of harmful requests vanish.
REFUSALS_VANISH: Literal["refusals vanish"] = "refusals vanish"


class Trigger(Protocol):
    """Something that can be put on inputs. ``strength`` is in (0, 1]: 1 is the whole trigger, less
    a weaker one (a smaller patch, a lower contrast, a shorter phrase)."""

    @property
    def name(self) -> str:
        """In a few words, for tables: ``3x3 patch, bottom right``."""
        ...

    @property
    def digest(self) -> str:
        """sha256 (hex) of what decides the stamp."""
        ...

    @overload
    def stamp(self, inputs: torch.Tensor, strength: float = ...) -> torch.Tensor: ...

    @overload
    def stamp(self, inputs: Sequence[str], strength: float = ...) -> tuple[str, ...]: ...


@dataclasses.dataclass(frozen=True)
class Backdoor:
    """``target`` is a class index (classifiers), :data:`REFUSALS_VANISH`, or text that the answer
    then contains (language models). ``trigger`` or ``target`` is None where it is not named."""

    trigger: Trigger | None = None
    target: int | str | None = None
