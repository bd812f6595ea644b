"""Intervals and the test of no change for paired binary outcomes.

Sign convention of both intervals: (improved − regressed) / n, so negative is worse. The interval
of the degradation is ``(−upper, −lower)``.
"""

from __future__ import annotations

import math

from pytest_compsec.statistics._validate import normal_quantile, real_between, special_functions
from pytest_compsec.statistics.counts import PairedCounts
from pytest_compsec.statistics.proportions import wilson_interval
from pytest_compsec.statistics.score import tango_score


def tango_interval(counts: PairedCounts, confidence: float) -> tuple[float, float]:
    """Asymptotic score interval ``(lower, upper)`` of (improved − regressed)/n.

    Tango, Statistics in Medicine 17 (1998) 891-908: the differences that the score test does not
    reject at two-sided level 1 − confidence. Raises ValueError without pairs or when confidence
    is outside (0, 1).
    """
    n = counts.required_n()
    confidence = real_between("confidence", confidence, 0.0, 1.0)
    z = normal_quantile(0.5 + confidence / 2)
    return -_degradation_limit(counts, n, z, upper=True), -_degradation_limit(
        counts, n, z, upper=False
    )


def _degradation_limit(counts: PairedCounts, n: int, z: float, *, upper: bool) -> float:
    """The degradation beyond the observed one whose score is +z (upper) or −z (lower)."""
    inside = counts.degradation
    outside = 1.0 if upper else -1.0
    if inside == outside:
        return outside
    # The score rises with the assumed degradation: bisection down to neighbouring floats.
    while True:
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            return middle
        score = float(tango_score(counts.improved, counts.regressed, n, middle))
        if abs(score) < z:
            inside = middle
        else:
            outside = middle


def newcombe_interval(counts: PairedCounts, confidence: float) -> tuple[float, float]:
    """Square-and-add interval ``(lower, upper)`` of (improved − regressed)/n.

    Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10: Wilson intervals of the two
    safe rates combined with the correlation phi, whose numerator is shrunk by n/2 when positive.
    Raises ValueError without pairs or when confidence is outside (0, 1).
    """
    n = counts.required_n()
    compressed_safe = counts.both + counts.improved
    original_safe = counts.both + counts.regressed
    rate_c, rate_o = compressed_safe / n, original_safe / n
    low_c, high_c = wilson_interval(compressed_safe, n, confidence)
    low_o, high_o = wilson_interval(original_safe, n, confidence)
    phi = _shrunk_phi(counts, n, compressed_safe, original_safe)

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one + other * other - 2 * phi * one * other))

    difference = (counts.improved - counts.regressed) / n
    lower = difference - reach(rate_c - low_c, high_o - rate_o)
    upper = difference + reach(high_c - rate_c, rate_o - low_o)
    return max(-1.0, lower), min(1.0, upper)


def _shrunk_phi(counts: PairedCounts, n: int, compressed_safe: int, original_safe: int) -> float:
    margins = compressed_safe * (n - compressed_safe) * original_safe * (n - original_safe)
    if margins == 0:
        return 0.0
    numerator: float = counts.both * counts.neither - counts.improved * counts.regressed
    if numerator > 0:
        numerator = max(0.0, numerator - n / 2)
    return numerator / math.sqrt(margins)


def mcnemar_midp(counts: PairedCounts) -> float:
    """Two-sided mid-P value of "no change": improved and regressed equally likely.

    McNemar's exact conditional test with half the probability of the observed table
    (Fagerland, Lydersen & Laake, BMC Medical Research Methodology 13 (2013) 91).
    """
    counts.required_n()
    smaller = min(counts.improved, counts.regressed)
    discordant = counts.improved + counts.regressed
    special = special_functions()
    point = math.exp(
        math.lgamma(discordant + 1)
        - math.lgamma(smaller + 1)
        - math.lgamma(discordant - smaller + 1)
        - discordant * math.log(2)
    )
    if counts.improved == counts.regressed:
        return 1.0 - point / 2
    return min(1.0, 2 * float(special.bdtr(smaller, discordant, 0.5)) - point)
