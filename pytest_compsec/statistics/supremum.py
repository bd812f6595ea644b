"""The largest probability that a region has under the null hypothesis, with a proof.

On the edge of the null hypothesis (degradation exactly D) one nuisance parameter is left: u, the
smaller of the two discordant probabilities; the other is u + |D|. A grid could miss a narrow peak
of f(u) = P_u(region) between its points, so every cell between two grid points carries an upper
bound, and cells are halved until no bound exceeds the largest value found by more than the
tolerance (branch and bound).

The bounds for a cell [a, b] of width w, from the region's monotone shape (see ``score``). Let
G = P(region after one improved | n − 1 pairs), evaluated with the improved probability at b and
the regressed one at a. A region grows with improved and shrinks with regressed, so G is at least
every probability that enters f, f' and f'' anywhere in the cell, and
  1. f <= G;
  2. |f'| <= n G, so f <= min(f(a), f(b)) + n G w;
  3. each sample's probability is log-concave in u, so that f'' >= −n G (1/p_i + 1/p_r + 4/p_0),
     p_0 = 1 − p_i − p_r; that factor is convex in u, hence largest at an end, and f lies below its
     chord plus w²/8 times it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from pytest_compsec.statistics.probability import TRUNCATED, region_probability
from pytest_compsec.statistics.score import Region

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pytest_compsec.statistics.score import Floats

_FIRST_CELLS = 48
_MOST_HALVINGS = 60


def relative_tolerance(n: int) -> float:
    """How much a supremum may be overstated, relatively: 1e-5 up to 1,500 pairs.

    Beyond, it grows with n (1 % at 1.5 million): the number of cells then stays the same and only
    the width of each sum grows, with the square root of n. Overstating keeps the promise.
    """
    return 1e-5 * max(1.0, n / 1500)


class Supremum(NamedTuple):
    """The largest probability along the edge lies in [attained, ceiling]; attained at ``where``."""

    attained: float
    ceiling: float
    where: float


def supremum_bounds(
    region: Region,
    degradation: float,
    nuisance: tuple[float, float],
    *,
    enough: float | None = None,
) -> Supremum:
    """Bounds of the largest f(u) for u in the range ``nuisance``, ``relative_tolerance`` apart.

    ``enough``: stop as soon as the supremum is known to be above it or known not to be; then only
    the comparison of ``attained`` and of ``ceiling`` with it means anything.
    """
    import numpy as np

    function = _NullProbability(region, degradation)
    # Cells equal in arcsin(sqrt(u)) carry about equal information; u = scale sin²(angle).
    scale = (1.0 - abs(degradation)) / 2
    first, last = (math.asin(math.sqrt(min(1.0, end / scale))) for end in nuisance)
    angle = np.linspace(first, last, _FIRST_CELLS + 1 if last > first else 1)
    u = np.minimum(scale * np.sin(angle) ** 2, scale)
    value = function.at(u)
    attained, where = float(value.max()), float(u[value.argmax()])
    if len(u) == 1:
        return Supremum(attained, min(1.0, attained + TRUNCATED), where)
    left, right, at_left, at_right = u[:-1], u[1:], value[:-1], value[1:]
    ceiling = attained
    for _ in range(_MOST_HALVINGS):
        if enough is not None and attained > enough:
            break
        bound = function.cell_bound(left, right, at_left, at_right)
        allowed = attained * (1.0 + relative_tolerance(region.n))
        if enough is not None:
            allowed = max(allowed, enough)
        open_ = bound > allowed
        ceiling = max(ceiling, float(bound[~open_].max(initial=0.0)))
        if not bool(open_.any()):
            return Supremum(attained, min(1.0, ceiling + TRUNCATED), where)
        left, right, at_left, at_right = left[open_], right[open_], at_left[open_], at_right[open_]
        middle = (
            scale
            * np.sin((np.arcsin(np.sqrt(left / scale)) + np.arcsin(np.sqrt(right / scale))) / 2)
            ** 2
        )
        at_middle = function.at(middle)
        if float(at_middle.max()) > attained:
            attained, where = float(at_middle.max()), float(middle[at_middle.argmax()])
        left, right = np.r_[left, middle], np.r_[middle, right]
        at_left, at_right = np.r_[at_left, at_middle], np.r_[at_middle, at_right]
    # Either known to be above `enough`, or cells as narrow as floats allow: their bounds count.
    bound = function.cell_bound(left, right, at_left, at_right)
    ceiling = max(ceiling, float(bound.max()))
    return Supremum(attained, min(1.0, ceiling + TRUNCATED), where)


class _NullProbability:
    """f(u) and its bounds over cells, for one region and one degradation."""

    def __init__(self, region: Region, degradation: float) -> None:
        self._region = region
        self._after = region.after_one_improved()
        self._extra_improved = max(0.0, -degradation)
        self._extra_regressed = max(0.0, degradation)

    def at(self, u: Floats) -> Floats:
        return region_probability(self._region, u + self._extra_improved, u + self._extra_regressed)

    def cell_bound(self, left: Floats, right: Floats, at_left: Floats, at_right: Floats) -> Floats:
        import numpy as np

        n = self._region.n
        width = right - left
        most = region_probability(
            self._after, right + self._extra_improved, left + self._extra_regressed
        )
        by_slope = np.minimum(at_left, at_right) + n * most * width
        curvature = n * np.maximum(self._information(left), self._information(right))
        with np.errstate(over="ignore", invalid="ignore"):
            by_curvature = np.maximum(at_left, at_right) + curvature * most * width**2 / 8
        bound: npt.NDArray[np.float64] = np.fmin(np.minimum(most, by_slope), by_curvature)
        return bound

    def _information(self, u: Floats) -> Floats:
        import numpy as np

        p_improved, p_regressed = u + self._extra_improved, u + self._extra_regressed
        p_same = np.maximum(0.0, 1.0 - p_improved - p_regressed)
        with np.errstate(divide="ignore"):
            total: Floats = 1.0 / p_improved + 1.0 / p_regressed + 4.0 / p_same
        return total
