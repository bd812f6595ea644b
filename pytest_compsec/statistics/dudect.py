"""Do two classes of requests take different times? Welch's t on all times and on the fast ones.

After dudect (Reparaz, Balasch & Verbauwhede, "Dude, is my code constant time?", DATE 2017): slow
measurements are mostly the machine's own doing, and where in the distribution a leak shows is not
known before, so the test is made on all measurements and on those below several percentiles of both
classes together. dudect compares the largest |t| with a fixed threshold after at least 10,000
measurements; a model answers too slowly for that many, so that here the p-values of all crops are
corrected by Holm's method, which is exact about what a few hundred can show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_compsec.statistics.multiplicity import holm
from pytest_compsec.statistics.welch import welch

#: Crops beside the test on all times: they keep 1/2, 3/4, 7/8, 15/16 and 31/32 of them.
CROPS = 5
#: A crop is tested when it keeps so many measurements of each class.
LEAST_KEPT = 10


@dataclass(frozen=True)
class Crop:
    """The test on the measurements at or below one percentile: ``kept`` is the share of both
    classes that is kept (1 for all), ``pvalue`` two-sided and uncorrected."""

    kept: float
    t: float
    pvalue: float


@dataclass(frozen=True)
class CroppedTests:
    """All crops; ``pvalue`` is the smallest after Holm's correction."""

    crops: tuple[Crop, ...]
    pvalue: float

    @property
    def largest(self) -> Crop:
        """The crop with the smallest p-value."""
        return min(self.crops, key=lambda crop: crop.pvalue)


def crop_levels(crops: int = CROPS) -> tuple[float, ...]:
    """Shares that the crops keep, 1 - 2^-i for i from 1: dudect's, which crowd towards the slow
    end, in steps of one halving."""
    return tuple(1 - 0.5 ** (place + 1) for place in range(crops))


def cropped_tests(
    first: Sequence[float], second: Sequence[float], crops: int = CROPS
) -> CroppedTests:
    """Welch's test of "both classes take the same time" on all times and on each crop.

    Raises ValueError for fewer than :data:`LEAST_KEPT` measurements of a class, or one that is not
    finite.
    """
    import numpy as np

    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if min(len(one), len(other)) < LEAST_KEPT:
        raise ValueError(f"needs at least {LEAST_KEPT} measurements of each class")
    whole = welch(one.tolist(), other.tolist())
    found = [Crop(1.0, whole.t, whole.pvalue)]
    both = np.concatenate([one, other])
    for level in crop_levels(crops):
        limit = np.quantile(both, level)
        fast, fast_other = one[one <= limit], other[other <= limit]
        if min(len(fast), len(fast_other)) < LEAST_KEPT:
            # A class that is hardly ever that fast shows in the crops that keep more of it.
            continue
        test = welch(fast.tolist(), fast_other.tolist())
        found.append(Crop(level, test.t, test.pvalue))
    return CroppedTests(tuple(found), min(holm([crop.pvalue for crop in found])))
