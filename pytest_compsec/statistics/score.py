"""Tango's score statistic for a given degradation, and the rejection regions that it orders.

With improved = x, regressed = y of n pairs and the assumed degradation D = p_r − p_i, the score is
z = (nD − (y − x)) / sqrt(n (p_i + p_r − D²)), the probabilities being the maximum-likelihood ones
under D. Large values speak against "the degradation is at least D".

Why its regions are simple: let V = p_i + p_r − D² and λ = (D − (y − x)/n) / V; the restricted
estimates satisfy x/n = p_i (1 + λ(1 + D)) and y/n = p_r (1 − λ(1 − D)). Differentiating the
estimating equation with these shows that z strictly rises with x and strictly falls with y over
the whole sample space, for every D in (−1, 1) (Barnard's convexity; shown for this test by Hsueh,
Liu & Chen, Biometrics 57 (2001) 478-483). So {z >= t} is, for each x, all y up to a limit, and the
limit does not fall as x grows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_compsec.statistics._validate import special_functions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

# Scores that differ by less than this (relatively) count as tied: a tie then falls inside the
# region, which can only raise a p-value.
_TIE = 1e-9
_LARGEST_SCORE = 37.0


def tango_score(improved: Any, regressed: Any, n: int, degradation: float) -> Floats:
    """Score of the counts (numbers or arrays of one shape) for the assumed degradation.

    Tango 1998, with the restricted estimate in its closed form (a quadratic's larger root,
    written without cancellation). 0 where the score is 0/0: no discordance, degradation 0.
    """
    import numpy as np

    x = np.asarray(improved, dtype=np.float64)
    y = np.asarray(regressed, dtype=np.float64)
    size = abs(degradation)
    # The smaller of the two probabilities, `rare`, is estimated; the other is rare + size.
    rare_count, other_count = (x, y) if degradation >= 0 else (y, x)
    b = rare_count + other_count - size * (2.0 * n + rare_count - other_count)
    c = rare_count * (size * (1.0 - size))
    root = np.sqrt(b * b + 8.0 * n * c)
    gap = np.where(b < 0, root - b, 1.0)
    rare = np.where(b < 0, 2.0 * c / gap, (b + root) / (4.0 * n))
    variance = n * (2.0 * rare + size * (1.0 - size))
    numerator = n * degradation - (y - x)
    safe = np.where(variance > 0, variance, 1.0)
    score: Floats = np.where(variance > 0, numerator / np.sqrt(safe), 0.0)
    return score


@dataclass(frozen=True, eq=False)
class Region:
    """Samples (x, y) of n pairs with y <= limit[x], for x = 0 .. len(limit) − 1.

    limit: shape (count,), −1 where no y belongs to the region. Larger x than the table holds are
    never asked for: the caller makes the table long enough for the probabilities that it uses.
    """

    n: int
    limit: Integers

    def after_one_improved(self) -> Region:
        """What the other n − 1 pairs may show when one pair is known to have improved."""
        return Region(self.n - 1, self.limit[1:])


def evidence(improved: int, regressed: int, n: int, margin: float) -> float:
    """What orders the samples: Tango's score or, where stronger, the binomial test's normal score.

    The addition: a degradation of at least ``margin`` > 0 implies p_r >= margin, which the
    regressed count alone may refute; P(Bin(n, margin) <= regressed) is a valid p-value. Without
    any discordance the score understates that evidence when it is strong ((1 − margin)^n below
    about 0.03), and would ask for 188 pairs where 183 suffice (margin 2 %, confidence 97.5 %).
    Both parts rise with improved and fall with regressed, so the regions keep their shape, and
    the exact p-value is computed of the combined ordering. Where it is weaker (the usual case at
    95 %) the ordering is that of the score.
    """
    score = float(tango_score(improved, regressed, n, margin))
    return max(score, _binomial_score(regressed, n, margin))


def _binomial_score(regressed: int, n: int, margin: float) -> float:
    if margin <= 0:
        return -math.inf
    special = special_functions()
    # Clipped where a normal tail leaves the range of floats: an infinite score cannot be compared.
    return float(min(_LARGEST_SCORE, -special.ndtri(special.bdtr(regressed, n, margin))))


def region_at_least(threshold: float, n: int, margin: float, improved_up_to: int) -> Region:
    """The region {evidence >= threshold} (ties included) for x = 0 .. improved_up_to.

    O(m log n) time and O(m) memory for m = improved_up_to + 1.
    """
    import numpy as np

    x = np.arange(min(improved_up_to, n) + 1, dtype=np.int64)
    low = np.full(x.shape, -1, dtype=np.int64)
    high = n - x
    cut = threshold - _TIE * (1.0 + abs(threshold))
    while bool((low < high).any()):
        middle = (low + high + 1) // 2
        inside = tango_score(x, np.maximum(middle, 0), n, margin) >= cut
        open_ = low < high
        low = np.where(open_ & inside, middle, low)
        high = np.where(open_ & ~inside, middle - 1, high)
    # The limit cannot fall as x grows except by the triangle's edge x + y <= n, which the
    # probabilities respect by themselves; the running maximum also absorbs rounding.
    limit = np.maximum.accumulate(low)
    return Region(n, np.maximum(limit, _binomial_limit(cut, n, margin)))


def _binomial_limit(cut: float, n: int, margin: float) -> int:
    """The largest regressed count that reaches the cut by the binomial score, −1 if none does."""
    low, high = -1, n
    while low < high:
        middle = (low + high + 1) // 2
        if _binomial_score(middle, n, margin) >= cut:
            low = middle
        else:
            high = middle - 1
    return low
