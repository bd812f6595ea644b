"""Two proofs that n pairs are too few, cheaper than the power of the exact test itself.

Both assume no true degradation and ``discordance``, half of it each way; both are bounds from
above on the exact power, so what they call too few is too few.
"""

from __future__ import annotations

import math

from pytest_compsec.statistics.exact import NUISANCE_RISK, nuisance_range, region_for
from pytest_compsec.statistics.probability import (
    TRUNCATED,
    largest_improved,
    region_probability,
    window_reach,
)
from pytest_compsec.statistics.score import Region, region_at_least
from pytest_compsec.statistics.supremum import supremum_bounds

_BISECTIONS = 40


def certainly_too_few(margin: float, discordance: float, risk: float, power: float) -> int:
    """A number of pairs (maybe 0) at which no test whatever reaches the power.

    Neyman and Pearson: against one fixed point of the null hypothesis no test of level ``risk``
    has more power than the likelihood-ratio test, whose power rises with n.
    """
    return max(
        _too_few_against(nuisance, margin, discordance, risk, power)
        for nuisance in _null_points(margin, discordance)
    )


def _null_points(margin: float, discordance: float) -> list[float]:
    """Improved probabilities of null points hard to tell from the alternative (all are valid)."""
    shares = (0.3, 0.5, 0.7, 0.9)
    candidates = [share * discordance / 2 for share in shares] + [(discordance - margin) / 2]
    return [u for u in candidates if 0.0 < u < min((1.0 - margin) / 2, discordance / 2)]


def _too_few_against(
    nuisance: float, margin: float, discordance: float, risk: float, power: float
) -> int:
    low, high = 0, 1
    while _likelihood_ratio_power(high, nuisance, margin, discordance, risk) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _likelihood_ratio_power(middle, nuisance, margin, discordance, risk) < power:
            low = middle
        else:
            high = middle
    return low


def _likelihood_ratio_power(
    n: int, nuisance: float, margin: float, discordance: float, risk: float
) -> float:
    """The best power at level ``risk`` against this point (randomised, so that it rises with n).

    The log likelihood ratio is linear in the counts: slope · improved − fall · regressed.
    """
    import numpy as np

    half = discordance / 2
    same = math.log((1.0 - discordance) / (1.0 - margin - 2 * nuisance)) if discordance < 1 else 0.0
    slope = math.log(half / nuisance) - same
    fall = same - math.log(half / (nuisance + margin))
    if discordance == 1 or slope <= 0 or fall <= 0:
        return 1.0  # no useful bound from this point
    x = np.arange(largest_improved(n, max(half, nuisance)) + 1)

    def region(cut: float) -> Region:
        return Region(n, np.clip(np.floor((slope * x - cut) / fall), -1, n).astype(np.int64))

    low, high = -fall * n, slope * n
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if region_probability(region(middle), nuisance, nuisance + margin)[0] >= risk:
            low = middle
        else:
            high = middle
    # The sample on the border, between the two cuts, is certified with the remaining risk.
    at_null = [
        region_probability(region(cut), nuisance, nuisance + margin)[0] for cut in (low, high)
    ]
    at_equal = [region_probability(region(cut), half, half)[0] for cut in (low, high)]
    share = (risk - at_null[1]) / max(at_null[0] - at_null[1], TRUNCATED)
    return float(at_equal[1] + min(1.0, share) * (at_equal[0] - at_equal[1])) + TRUNCATED


def quickly_refuted(n: int, margin: float, discordance: float, risk: float, power: float) -> bool:
    """Whether one p-value search shows that the exact test misses the power.

    The region of the evidence that would just miss the power is searched for one nuisance value
    with too large a probability. If there is one, samples outside that region are not certified
    either as long as their nuisance range holds this value; all others are granted.
    """
    import numpy as np

    half = discordance / 2
    first = max(0, math.floor(n * half - window_reach(n, half)))
    last = largest_improved(n, half)
    low, high = -1.0, 8.0
    for _ in range(14):
        middle = (low + high) / 2
        if region_probability(region_at_least(middle, n, margin, last), half, half)[0] < power:
            high = middle
        else:
            low = middle
    ranges = {x: nuisance_range(x, n, margin) for x in range(first, last + 1)}
    likely = ranges[round(n * half)]
    enough = risk - NUISANCE_RISK
    worst = supremum_bounds(region_for(high, n, margin, likely), margin, likely, enough=enough)
    if worst.attained <= enough:
        return False
    limit = np.array(region_at_least(high, n, margin, last).limit)
    for x, (least, most) in ranges.items():
        if not least <= worst.where <= most:
            limit[x] = n
    return float(region_probability(Region(n, limit), half, half)[0]) + 2 * TRUNCATED < power
