"""Differences of two means whose spreads may differ, and means that a few outliers do not move.

- Welch's t-test (Welch, Biometrika 34 (1947) 28-35), for two samples or for many points of them at
  once;
- the trimmed mean of paired differences with Tukey & McLaughlin's t (Sankhya A 25 (1963) 331-352):
  request times have a long right tail that belongs to the machine, not to the requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_compsec.statistics._validate import real_between, risk_of, special_functions

if TYPE_CHECKING:
    from pytest_compsec.statistics.score import Floats

#: Share of the smallest and of the largest differences that a trimmed mean leaves out.
TRIMMED = 0.1


@dataclass(frozen=True)
class Estimated:
    """A number with its standard error and the degrees of freedom of its t distribution."""

    value: float
    error: float
    degrees: float

    def upper(self, risk: float) -> float:
        """What the true value exceeds with probability ``risk`` at most. Raises ValueError for a
        risk outside (0, 1)."""
        return self.value + self.error * _quantile(1 - risk, self.degrees)

    def lower(self, risk: float) -> float:
        """The mirror image of :meth:`upper`."""
        return self.value - self.error * _quantile(1 - risk, self.degrees)

    @property
    def t(self) -> float:
        """Value over standard error; infinite where there is a difference and no spread."""
        if self.error == 0:
            return math.copysign(math.inf, self.value) if self.value else 0.0
        return self.value / self.error

    @property
    def pvalue(self) -> float:
        """Two-sided p-value of "the true value is 0"."""
        return two_sided_pvalue(self.t, self.degrees)

    def minus(self, other: Estimated) -> Estimated:
        """The difference of two independent estimates (Welch-Satterthwaite)."""
        parts = [(one.error**2, one.degrees) for one in (self, other) if one.error > 0]
        variance = sum(part for part, _ in parts)
        if variance == 0:
            degrees = min(self.degrees, other.degrees)
        else:
            degrees = variance**2 / sum(part**2 / own for part, own in parts)
        return Estimated(self.value - other.value, math.sqrt(variance), degrees)

    @property
    def negated(self) -> Estimated:
        return Estimated(-self.value, self.error, self.degrees)


def welch(first: Sequence[float], second: Sequence[float]) -> Estimated:
    """Mean of ``first`` minus mean of ``second`` with Welch's standard error and degrees.

    Raises ValueError for fewer than two numbers on a side, or one that is not finite.
    """
    one, other = _mean("first", first), _mean("second", second)
    return one.minus(other)


def welch_points(
    first: tuple[Floats, Floats, int], second: tuple[Floats, Floats, int]
) -> tuple[Floats, Floats]:
    """(t, degrees of freedom) of Welch's test at many points at once.

    Each side is (means, variances with n - 1, n), means and variances of one shape. Where neither
    side varies t is 0 for equal means and infinite for others, with the degrees of the smaller
    side. Raises ValueError for n below 2.
    """
    import numpy as np

    (mean_1, variance_1, n_1), (mean_2, variance_2, n_2) = first, second
    if min(n_1, n_2) < 2:
        raise ValueError("a variance needs at least two samples")
    part_1, part_2 = variance_1 / n_1, variance_2 / n_2
    variance, difference = part_1 + part_2, mean_1 - mean_2
    still = variance == 0
    safe = np.where(still, 1.0, variance)
    t = np.where(
        still,
        np.where(difference == 0, 0.0, np.copysign(np.inf, difference)),
        difference / np.sqrt(safe),
    )
    # In shares of the variance: squares of tiny variances would underflow.
    share_1, share_2 = part_1 / safe, part_2 / safe
    spread = share_1**2 / (n_1 - 1) + share_2**2 / (n_2 - 1)
    degrees = np.where(still, min(n_1, n_2) - 1, 1.0 / np.where(still, 1.0, spread))
    return t, degrees


def trimmed_mean(values: Sequence[float], share: float = TRIMMED) -> Estimated:
    """Mean of what is left when ``share`` of the smallest and of the largest ``values`` are left
    out, with the standard error from the Winsorized variance and n - 2g - 1 degrees of freedom
    (Tukey & McLaughlin 1963; Wilcox, Introduction to Robust Estimation, section 4.3).

    Raises ValueError for a share outside [0, 0.5), a value that is not finite, or fewer than three
    values left.
    """
    import numpy as np

    share = real_between("share", share, 0.0, 0.5, with_low=True)
    ordered = np.sort(_finite("values", values))
    n = len(ordered)
    cut = int(share * n)
    kept = n - 2 * cut
    if kept < 3:
        raise ValueError(f"{n} values are too few for a trimmed mean")
    winsorized = np.clip(ordered, ordered[cut], ordered[n - cut - 1])
    deviation = float(winsorized.std(ddof=1))
    error = deviation / ((1 - 2 * cut / n) * math.sqrt(n))
    return Estimated(float(ordered[cut : n - cut].mean()), error, kept - 1)


def two_sided_pvalue(t: float, degrees: float) -> float:
    """Probability of a t at least as far from 0."""
    if math.isinf(t):
        return 0.0
    return float(2 * special_functions().stdtr(degrees, -abs(t)))


def familywise_threshold(points: int, degrees: float, confidence: float) -> float:
    """The |t| that none of ``points`` t statistics exceeds with probability ``confidence`` where
    nothing leaks (Sidak's level 1 - (1 - alpha)^(1/points); Ding, Zhang, Durvaux, Standaert & Fei,
    "Towards sound and optimal leakage detection procedure", CARDIS 2017).

    Exact for independent points, on the safe side for points that move together. Raises ValueError
    for no points or a confidence outside (0.5, 1).
    """
    if points < 1:
        raise ValueError(f"points must be at least 1, got {points}")
    risk = -math.expm1(math.log1p(-risk_of(confidence)) / points)
    return -float(special_functions().stdtrit(degrees, risk / 2))


def _mean(name: str, values: Sequence[float]) -> Estimated:
    array = _finite(name, values)
    if len(array) < 2:
        raise ValueError(f"{name}: needs at least two numbers, got {len(array)}")
    error = float(array.std(ddof=1)) / math.sqrt(len(array))
    return Estimated(float(array.mean()), error, len(array) - 1)


def _finite(name: str, values: Sequence[float]) -> Floats:
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name}: must be finite numbers")
    return array


def _quantile(probability: float, degrees: float) -> float:
    real_between("risk", 1 - probability, 0.0, 1.0)
    return float(special_functions().stdtrit(degrees, probability))
