"""From paired counts to PRESERVED, REGRESSED or INCONCLUSIVE, with the numbers behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pytest_compsec.statistics._validate import normal_quantile, real_between, risk_of
from pytest_compsec.statistics.counts import PairedCounts
from pytest_compsec.statistics.exact import noninferiority_pvalue, regression_pvalue
from pytest_compsec.statistics.intervals import mcnemar_midp, tango_interval
from pytest_compsec.statistics.score import tango_score

#: What results say of how :func:`decide` decides.
METHOD = (
    "exact unconditional tests of paired binary outcomes (Hsueh, Liu & Chen 2001; Berger & Boos "
    "1994); shown: score interval (Tango 1998)"
)

Outcome = Literal["PRESERVED", "REGRESSED", "INCONCLUSIVE"]

# More prompts than anyone collects: beyond, the degradation counts as "about at the margin".
_MOST_PAIRS = 1_000_000
# Up to here the estimate is refined with the exact test; above, the score alone is near enough.
_REFINE_UP_TO = 3_000


@dataclass(frozen=True)
class Decision:
    """The outcome of one comparison and every number that a reader needs to judge it.

    outcome:          decided by the two exact p-values alone, each against α = 1 − confidence
    degradation:      (regressed − improved) / n
    interval:         of the degradation, two-sided at 1 − 2α (Tango); for display, it never rules
    preserved_pvalue: of "the degradation is at least the margin"
    regressed_pvalue: of "the degradation is at most the margin"
    mcnemar_pvalue:   mid-P value of "no change"
    pairs_needed:     INCONCLUSIVE only: about how many prompts would settle it if the observed
                      rates held; None when none would (degradation about at the margin)
    """

    outcome: Outcome
    degradation: float
    interval: tuple[float, float]
    preserved_pvalue: float
    regressed_pvalue: float
    mcnemar_pvalue: float
    pairs_needed: int | None


def decide(
    counts: PairedCounts, *, margin: float, confidence: float, settle: bool = True
) -> Decision:
    """Decide whether the degradation is within ``margin``.

    PRESERVED when the exact test rejects "at least the margin" at α = 1 − confidence, REGRESSED
    when it rejects "at most the margin", else INCONCLUSIVE. Either error has probability at most
    α whatever the discordance. ``settle=False`` leaves out ``pairs_needed``, which may take
    seconds. Raises ValueError for counts without pairs, a margin outside (-1, 1) or a confidence
    outside (0.5, 1).
    """
    margin = real_between("margin", margin, -1.0, 1.0)
    risk = risk_of(confidence)
    preserved = noninferiority_pvalue(counts, margin)
    regressed = regression_pvalue(counts, margin)
    outcome: Outcome = "INCONCLUSIVE"
    if preserved <= risk:
        outcome = "PRESERVED"
    elif regressed <= risk:
        outcome = "REGRESSED"
    lower, upper = tango_interval(counts, 1.0 - 2.0 * risk)
    return Decision(
        outcome=outcome,
        degradation=counts.degradation,
        interval=(-upper, -lower),
        preserved_pvalue=preserved,
        regressed_pvalue=regressed,
        mcnemar_pvalue=mcnemar_midp(counts),
        pairs_needed=(
            pairs_to_settle(counts, margin, risk) if settle and outcome == "INCONCLUSIVE" else None
        ),
    )


def pairs_to_settle(counts: PairedCounts, margin: float, risk: float) -> int | None:
    """About how many pairs with the observed rates the exact test would decide at ``risk``.

    The score of proportional counts grows with the square root of n, which gives a first
    estimate; the exact test of the counts scaled to it then corrects it. None above a million.
    """
    n = counts.required_n()
    score = float(tango_score(counts.improved, counts.regressed, n, margin))
    if score == 0.0:
        return None
    estimate = n * (normal_quantile(1.0 - risk) / score) ** 2
    if estimate > _MOST_PAIRS:
        return None
    start = max(n + 1, math.ceil(estimate))
    if start > _REFINE_UP_TO:
        return start
    if score < 0:
        # seen from the other arm, "worse than the margin" is "better than minus the margin"
        counts, margin = counts.swapped(), -margin
    return _refined(counts, margin, risk, n, start)


def _refined(counts: PairedCounts, margin: float, risk: float, n: int, start: int) -> int:
    def settles(pairs: int) -> bool:
        improved = round(counts.improved * pairs / n)
        regressed = min(round(counts.regressed * pairs / n), pairs - improved)
        scaled = PairedCounts(pairs - improved - regressed, improved, regressed, 0)
        return noninferiority_pvalue(scaled, margin) <= risk

    low, high = n, start
    while not settles(high):
        low, high = high, high + max(1, high // 8)
    while high - low > 1:
        middle = (low + high) // 2
        if settles(middle):
            high = middle
        else:
            low = middle
    return high
