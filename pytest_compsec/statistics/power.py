"""How many prompts a margin needs: the exact test's reach before anything is measured.

All numbers belong to ``paired.noninferiority_pvalue``, the test that decides PRESERVED.
"""

from __future__ import annotations

import math

from pytest_compsec.statistics._validate import (
    normal_quantile,
    real_between,
    risk_of,
    whole_number,
)
from pytest_compsec.statistics.counts import PairedCounts
from pytest_compsec.statistics.exact import noninferiority_pvalue
from pytest_compsec.statistics.planning import certainly_too_few, quickly_refuted
from pytest_compsec.statistics.probability import (
    largest_improved,
    region_probability,
    window_reach,
)
from pytest_compsec.statistics.rejection import RejectionLimits

# Up to here every number of pairs is examined; above, a crossing is found by bisection (power is
# a sawtooth in n, but its teeth then span 2 % of n or so); above the second, the normal
# approximation answers (its error, about a discordant pair or two, is then below 1 % of n).
_EXAMINE_EVERY_N = 600
_EXACT_UP_TO = 10_000


def minimum_pairs(margin: float, confidence: float) -> int:
    """Least number of pairs at which two identical models are certified PRESERVED.

    Never below ln(1 − confidence) / ln(1 − margin), and almost always the next whole number: 149
    for 2 % at 95 %, 183 at 97.5 %. Raises ValueError unless margin lies in (0, 1) and confidence
    in (0.5, 1).
    """
    margin = real_between("margin", margin, 0.0, 1.0)
    risk = risk_of(confidence)
    n = max(1, math.floor(math.log(risk) / math.log1p(-margin)))
    while _identical_pvalue(n, margin) > risk:
        n += 1
    return n


def least_margin(n: int, confidence: float) -> float:
    """Least margin that ``n`` identical pairs can certify, to a relative 1e-6, rounded up.

    About 1 − (1 − confidence)^(1/n). Raises ValueError unless n >= 1 and confidence in (0.5, 1).
    """
    n = whole_number("n", n, least=1)
    risk = risk_of(confidence)
    low = -math.expm1(math.log(risk) / n)
    high, step = low, 1e-5 * low
    while _identical_pvalue(n, high) > risk:
        low, high, step = high, min(high + step, (1.0 + high) / 2), 2 * step
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        if _identical_pvalue(n, middle) > risk:
            low = middle
        else:
            high = middle
    return high


def power(n: int, margin: float, discordance: float, confidence: float) -> float:
    """Probability that ``n`` pairs are certified PRESERVED when the true degradation is 0.

    ``discordance`` in [0, 1]: the share of prompts on which the two models differ, half of them
    each way. Exact (no simulation, no normal approximation). Raises ValueError for a margin
    outside (0, 1), a confidence outside (0.5, 1) or n < 1.
    """
    n = whole_number("n", n, least=1)
    margin = real_between("margin", margin, 0.0, 1.0)
    discordance = real_between("discordance", discordance, 0, 1, with_low=True, with_high=True)
    risk = risk_of(confidence)
    half = discordance / 2
    first = max(0, math.floor(n * half - window_reach(n, half)))
    last = largest_improved(n, half)
    certified = RejectionLimits(n, margin, risk).region(first, last, last)
    return float(region_probability(certified, half, half)[0])


def pairs_for_power(margin: float, discordance: float, confidence: float, power: float) -> int:
    """Least number of pairs certified PRESERVED with probability >= ``power`` at no degradation.

    ``discordance`` as in ``power``; ``power`` in (0, 1). Exact up to 10,000 pairs (above 600
    the least but for the teeth of the sawtooth, some 2 % of n), normal approximation beyond.
    Raises ValueError for arguments outside their ranges.
    """
    margin = real_between("margin", margin, 0.0, 1.0)
    discordance = real_between("discordance", discordance, 0, 1, with_low=True, with_high=True)
    risk = risk_of(confidence)
    power = real_between("power", power, 0.0, 1.0)
    n = minimum_pairs(margin, confidence)
    if discordance == 0.0:
        return n
    approximate = approximate_pairs(margin, discordance, risk, power)
    if approximate > _EXACT_UP_TO:
        return approximate
    n = max(n, certainly_too_few(margin, discordance, risk, power) + 1)
    if n > _EXAMINE_EVERY_N or approximate > 2 * n:
        return _crossing(n, margin, discordance, confidence, power)
    while not _reaches(n, margin, discordance, confidence, power):
        n += 1
    return n


def approximate_pairs(margin: float, discordance: float, risk: float, power: float) -> int:
    """Normal approximation of ``pairs_for_power``: variance of a difference is ``discordance``.

    (z_α sqrt(ψ₀ − m²) + z_β sqrt(ψ))² / m², ψ₀ the discordance under the null hypothesis, at
    least the margin m.
    """
    null_spread = math.sqrt(max(discordance, margin) - margin**2)
    reach = normal_quantile(1 - risk) * null_spread + normal_quantile(power) * math.sqrt(
        discordance
    )
    return max(1, math.ceil((reach / margin) ** 2))


def _reaches(n: int, margin: float, discordance: float, confidence: float, target: float) -> bool:
    if quickly_refuted(n, margin, discordance, risk_of(confidence), target):
        return False
    return power(n, margin, discordance, confidence) >= target


def _crossing(low: int, margin: float, discordance: float, confidence: float, target: float) -> int:
    """An n that reaches the target while n − 1 does not, at or after ``low``."""
    if _reaches(low, margin, discordance, confidence, target):
        return low
    high = low + max(1, low // 50)
    while not _reaches(high, margin, discordance, confidence, target):
        low, high = high, high + 2 * (high - low)
    while high - low > 1:
        middle = (low + high) // 2
        if _reaches(middle, margin, discordance, confidence, target):
            high = middle
        else:
            low = middle
    return high


def _identical_pvalue(n: int, margin: float) -> float:
    return noninferiority_pvalue(PairedCounts(n, 0, 0, 0), margin)
