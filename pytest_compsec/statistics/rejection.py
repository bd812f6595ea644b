"""Which samples the exact test certifies, for computing its power and its error rates."""

from __future__ import annotations

from pytest_compsec.statistics.exact import NUISANCE_RISK, nuisance_range, region_for
from pytest_compsec.statistics.score import Region, evidence
from pytest_compsec.statistics.supremum import supremum_bounds


class RejectionLimits:
    """The largest regressed count that is still certified, for each improved count.

    One p-value search answers for many samples: what is certified stays so with more evidence or
    a narrower nuisance range; what some nuisance value refutes stays so with less evidence, for
    every range that holds this value.
    """

    def __init__(self, n: int, margin: float, risk: float) -> None:
        self._n, self._margin, self._enough = n, margin, risk - NUISANCE_RISK
        self._certified: list[tuple[float, float, float]] = []
        self._refuted: list[tuple[float, float]] = []

    def region(self, first: int, last: int, most_regressed: int) -> Region:
        """Certified samples with ``first <= improved <= last`` and regressed <= most_regressed.

        Outside those improved counts the region is empty.
        """
        import numpy as np

        limit = np.full(last + 1, -1, dtype=np.int64)
        own = {x: nuisance_range(x, self._n, self._margin) for x in range(first, last + 1)}
        wide = own[first][0], own[last][1]
        for improved in _middle_first(first, last):
            most = min(most_regressed, self._n - improved)
            limit[improved] = self._limit(improved, most, own[improved], wide)
        return Region(self._n, limit)

    def _limit(
        self,
        improved: int,
        most_regressed: int,
        own: tuple[float, float],
        wide: tuple[float, float],
    ) -> int:
        low, high = -1, most_regressed
        while low < high:
            middle = (low + high + 1) // 2
            strength = evidence(improved, middle, self._n, self._margin)
            known = self._known(strength, own)
            # The widest range first: if it certifies, it does so for every improved count.
            for nuisance in (wide, own):
                if known is None:
                    self._search(strength, nuisance)
                    known = self._known(strength, own)
            if known:
                low = middle
            else:
                high = middle - 1
        return low

    def _known(self, strength: float, own: tuple[float, float]) -> bool | None:
        low, high = own
        if any(strength >= s and low >= a and high <= b for s, a, b in self._certified):
            return True
        if any(strength <= s and low <= u <= high for s, u in self._refuted):
            return False
        return None

    def _search(self, strength: float, nuisance: tuple[float, float]) -> None:
        region = region_for(strength, self._n, self._margin, nuisance)
        worst = supremum_bounds(region, self._margin, nuisance, enough=self._enough)
        if worst.ceiling <= self._enough:
            self._certified.append((strength, *nuisance))
        else:
            self._refuted.append((strength, worst.where))


def _middle_first(first: int, last: int) -> list[int]:
    """The likeliest counts first: what they teach serves their neighbours."""
    middle = (first + last) / 2
    return sorted(range(first, last + 1), key=lambda count: (abs(count - middle), count))
