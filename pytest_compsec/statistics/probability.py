"""Exact probability of a region of paired outcomes, for many parameter values at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_compsec.statistics._validate import special_functions
from pytest_compsec.statistics.score import Region

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pytest_compsec.statistics.score import Floats

# Binomial mass left out at both ends of each sum; callers who need a bound add it back.
TRUNCATED = 1e-12
# Terms summed at once: bounds the memory to a few hundred MB whatever n is.
_TERMS_AT_ONCE = 2_000_000


def window_reach(n: int, probability: float) -> float:
    """Distance from the mean beyond which a binomial count has mass below TRUNCATED.

    Bernstein's inequality: P(|X − np| >= s) <= 2 exp(−s² / (2 (np(1 − p) + s/3))).
    """
    log_mass = math.log(2.0 / TRUNCATED)
    variance = n * probability * (1.0 - probability)
    return log_mass / 3 + math.sqrt((log_mass / 3) ** 2 + 2 * log_mass * variance)


def largest_improved(n: int, probability: float) -> int:
    """The largest improved count that a sum at this probability (or a smaller one) visits."""
    # the reach grows with the probability up to one half, then shrinks
    return min(n, math.ceil(n * probability + window_reach(n, min(probability, 0.5))))


def region_probability(region: Region, improved: npt.ArrayLike, regressed: npt.ArrayLike) -> Floats:
    """P(sample in region) at each pair of probabilities, at most TRUNCATED too low.

    improved, regressed: shape (k,), probabilities of the two discordant outcomes with
    improved + regressed <= 1; the region's table must reach ``largest_improved``.
    Returns shape (k,). The sum runs over the improved count x: binomial probability of x times
    the binomial distribution function of the regressed count among the other n − x pairs.
    """
    import numpy as np

    p_improved = np.atleast_1d(np.asarray(improved, dtype=np.float64))
    p_regressed = np.atleast_1d(np.asarray(regressed, dtype=np.float64))
    n = region.n
    log_mass = math.log(2.0 / TRUNCATED)
    third = log_mass / 3
    reach = third + np.sqrt(third**2 + 2 * log_mass * n * p_improved * (1 - p_improved))
    last = len(region.limit) - 1
    low = np.maximum(0, np.floor(n * p_improved - reach)).astype(np.int64)
    high = np.minimum(last, np.ceil(n * p_improved + reach)).astype(np.int64)
    widths = np.maximum(high - low + 1, 1)
    table = special_functions().gammaln(np.arange(last + 2, dtype=np.float64) + 1.0)

    result = np.empty(len(p_improved), dtype=np.float64)
    chunk = np.cumsum(widths) // _TERMS_AT_ONCE
    starts = np.flatnonzero(np.r_[True, chunk[1:] != chunk[:-1]])
    for start, stop in zip(starts, np.r_[starts[1:], len(widths)], strict=True):
        part = slice(int(start), int(stop))
        result[part] = _sum_windows(
            region, table, p_improved[part], p_regressed[part], low[part], widths[part]
        )
    return np.minimum(result, 1.0)


def _sum_windows(
    region: Region,
    log_factorial: Floats,
    p_improved: Floats,
    p_regressed: Floats,
    low: npt.NDArray[np.int64],
    widths: npt.NDArray[np.int64],
) -> Floats:
    """One flat array holds the windows of all parameter values, one after the other."""
    import numpy as np

    special = special_functions()
    n = region.n
    ends = np.cumsum(widths)
    firsts = ends - widths
    which = np.repeat(np.arange(len(widths)), widths)
    x = np.arange(int(ends[-1])) - firsts[which] + low[which]
    others = n - x
    p = p_improved[which]
    log_binomial = math.lgamma(n + 1) - log_factorial[x] - special.gammaln(others + 1.0)
    mass = np.exp(log_binomial + special.xlogy(x, p) + special.xlog1py(others, -p))

    limit = region.limit[x]
    conditional = (p_regressed / np.maximum(1.0 - p_improved, 1e-300))[which]
    certain = limit >= others
    partly = ~certain & (limit >= 0) & (mass > 0)
    share = certain.astype(np.float64)
    share[partly] = special.bdtr(
        limit[partly].astype(np.float64), others[partly], np.minimum(conditional[partly], 1.0)
    )
    total: Floats = np.add.reduceat(mass * share, firsts)
    return total
