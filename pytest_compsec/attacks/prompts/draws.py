"""Choices that look random and are the same on every machine and Python version.

``random.Random`` promises this for ``random()`` alone, and ``hash`` of a text differs from run to
run. Here the bits are SHA-256 of the seed, a key and a counter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
_BITS = 64


class Draws:
    """A stream of choices fixed by ``seed`` and ``key``; other keys give independent streams."""

    def __init__(self, seed: int, *key: str) -> None:
        # JSON keeps ("ab", "c") and ("a", "bc") apart.
        self._start = json.dumps([seed, *key], ensure_ascii=True, separators=(",", ":")).encode()
        self._count = 0

    def bits(self) -> int:
        """A whole number in [0, 2^64)."""
        block = hashlib.sha256(self._start + self._count.to_bytes(8, "big")).digest()
        self._count += 1
        return int.from_bytes(block[: _BITS // 8], "big")

    def unit(self) -> float:
        """A number strictly between 0 and 1, from 52 bits (all exact)."""
        return ((self.bits() >> (_BITS - 52)) + 0.5) / 2.0**52

    def below(self, limit: int) -> int:
        """A whole number in [0, limit), each equally likely (by rejection, not by remainder alone).

        Raises ValueError for ``limit`` < 1.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        fair = (1 << _BITS) // limit * limit
        while True:
            value = self.bits()
            if value < fair:
                return value % limit

    def choice(self, items: Sequence[_Item]) -> _Item:
        """One of ``items``, each equally likely."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[_Item]) -> list[_Item]:
        """``items`` in a random order (Fisher and Yates 1938)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order
