"""Which samples the exact test certifies, for computing its power and its error rates."""

from __future__ import annotations

from pytest_compsec.statistics.exact import nuisance_range, rejects
from pytest_compsec.statistics.score import Region, evidence


class RejectionLimits:
    """The largest regressed count that is still certified, for each improved count.

    One p-value search answers for many samples: what is certified stays so with more evidence or
    a narrower nuisance range, and what is not stays so with less evidence or a wider range.
    """

    def __init__(self, n: int, margin: float, risk: float) -> None:
        self._n, self._margin, self._risk = n, margin, risk
        self._certified: list[tuple[float, float, float]] = []
        self._refused: list[tuple[float, float, float]] = []

    def region(self, first: int, last: int, most_regressed: int) -> Region:
        """Certified samples with ``first <= improved <= last`` and regressed <= most_regressed.

        Outside those improved counts the region is empty.
        """
        import numpy as np

        limit = np.full(last + 1, -1, dtype=np.int64)
        for improved in _ends_first(first, last):
            limit[improved] = self._limit(improved, min(most_regressed, self._n - improved))
        return Region(self._n, limit)

    def _limit(self, improved: int, most_regressed: int) -> int:
        low, high = -1, most_regressed
        while low < high:
            middle = (low + high + 1) // 2
            if self._certifies(improved, middle):
                low = middle
            else:
                high = middle - 1
        return low

    def _certifies(self, improved: int, regressed: int) -> bool:
        strength = evidence(improved, regressed, self._n, self._margin)
        low, high = nuisance_range(improved, self._n, self._margin)
        if any(strength >= s and low >= a and high <= b for s, a, b in self._certified):
            return True
        if any(strength <= s and low <= a and high >= b for s, a, b in self._refused):
            return False
        certified = rejects(strength, self._n, self._margin, (low, high), self._risk)
        (self._certified if certified else self._refused).append((strength, low, high))
        return certified


def _ends_first(first: int, last: int) -> list[int]:
    """first, last, the middle, the quarters, ...: neighbours of what is known come late."""
    order, cells = [first] if first == last else [first, last], [(first, last)]
    while cells:
        left, right = cells.pop(0)
        if right - left > 1:
            middle = (left + right) // 2
            order.append(middle)
            cells += [(left, middle), (middle, right)]
    return order
