"""Bounds of a mean difference of paired scores that are not binary, valid at every sample size.

Scores in [0, 1] (a probability of refusal, a rate per text) give differences in [-1, 1]. A normal
approximation fails where it matters most: few prompts, most differences about zero, a rare large
one. The betting bound of Waudby-Smith & Ramdas (JRSS-B 86 (2024) 1-27, arXiv 2010.09686) assumes
nothing but the range and adapts to the variance.

How it works: a gambler bets on each score in turn that the mean is larger than m. If m is the
true mean, every bet is fair and the expected capital at the end is the 1 he began with, so it
reaches 1/α with probability at most α (Markov's inequality). The lower bound is the least m that
was not refuted so; the upper bound is the same game played on the reversed scores.

The capital depends on the order of the scores, and with one order the bound moves noticeably
when few prompts are rearranged. The gambler therefore plays in ``_ORDERS`` orders at once, with
an equal part of his money in each: the average of fair games is fair, and hardly anything is left
to gain from arranging the prompts. The price is the running maximum of the capital, which holds
for one order only and would make the interval somewhat narrower where the variance is high.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from pytest_compsec.statistics._validate import real_between, risk_of

if TYPE_CHECKING:
    from pytest_compsec.statistics.score import Floats, Integers

# The largest share of the capital put at stake on one score. Below 1, so that no single score
# ruins the gambler. The paper uses 1/2 and 3/4; nearer to 1 is narrower for low variances.
_MOST_AT_STAKE = 0.9
# How many orders of the scores the capital is averaged over: the time grows with it, what is left
# to gain from arranging the prompts shrinks.
_ORDERS = 16
# Leaves the bound within 1e-7, on the safe side.
_HALVINGS = 25


class MeanBound(NamedTuple):
    """Lower and upper bound of the mean difference, each one-sided at the confidence asked for."""

    lower: float
    upper: float


def paired_mean_bound(differences: Sequence[float], confidence: float) -> MeanBound:
    """Bounds of the mean of ``differences``, each missing it with probability at most 1 − c.

    differences: one number in [-1, 1] per prompt (score of one arm minus that of the other, both
    in [0, 1]); confidence: c in (0.5, 1). Together the two ends are a two-sided interval at
    1 − 2α, α = 1 − c, as everywhere in this package.

    Assumes that prompts are independent draws and that their order was fixed before the scores
    were known. The orders that are averaged over depend on nothing but the number of prompts:
    neither a seed nor another choice is left to the caller, and a rerun gives the same bounds.

    Raises ValueError for no differences, one outside [-1, 1] or not a number, or a confidence
    outside (0.5, 1).
    """
    import numpy as np

    risk = risk_of(confidence)
    if len(differences) == 0:
        raise ValueError("no differences: no mean is defined")
    checked = [
        real_between(f"difference {position}", value, -1.0, 1.0, with_low=True, with_high=True)
        for position, value in enumerate(differences)
    ]
    scores = ((np.array(checked) + 1.0) / 2.0)[_orders(len(checked))]
    lower = 2.0 * _lower_bound(scores, risk) - 1.0
    upper = 1.0 - 2.0 * _lower_bound(1.0 - scores, risk)
    return MeanBound(lower, upper)


@lru_cache(maxsize=16)
def _orders(n: int) -> Integers:
    """Shape (_ORDERS, n): permutations of 0 .. n − 1, sorted by digests.

    Not a random generator's, so that no version of a library changes a verdict.
    """
    import numpy as np

    return np.array(
        [
            sorted(range(n), key=lambda i: hashlib.sha256(f"{order}/{n}/{i}".encode()).digest())
            for order in range(_ORDERS)
        ]
    )


def _lower_bound(scores: Floats, risk: float) -> float:
    """Lower bound of the mean of scores in [0, 1], rounded downwards.

    scores: shape (_ORDERS, n), the same ones in several orders. Each factor 1 + bet (score − m)
    of the capital falls with m (also where the bet is limited to a share of 1/m), hence so does
    the average capital: bisection finds where it crosses 1/risk.
    """
    import numpy as np

    bets = _bets(scores, risk)
    # the sum of the capitals is compared, not their average
    target = math.log(len(scores) / risk)

    def refuted(mean: float) -> bool:
        bet = np.minimum(bets, _MOST_AT_STAKE / mean)
        capitals = np.log1p(bet * (scores - mean)).sum(axis=1)
        return bool(np.logaddexp.reduce(capitals) >= target)

    # At the largest score no factor is above 1: that mean is never refuted.
    low, high = 0.0, float(scores.max())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle > 0.0 and refuted(middle):
            low = middle
        else:
            high = middle
    return low


def _bets(scores: Floats, risk: float) -> Floats:
    """The predictable plug-in bets, shape as ``scores``: each depends on earlier scores only.

    sqrt(2 log(1/α) / (n v)), v the variance estimated from the earlier scores, started as if one
    score with mean 1/2 and variance 1/4 had been seen (the paper's predictable plug-in for a
    fixed n, one-sided).
    """
    import numpy as np

    n = scores.shape[1]
    seen = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(scores, axis=1)) / (seen + 1)
    variances = (0.25 + np.cumsum((scores - means) ** 2, axis=1)) / (seen + 1)
    before = np.concatenate([np.full((len(scores), 1), 0.25), variances[:, :-1]], axis=1)
    bets: Floats = np.sqrt(2.0 * math.log(1.0 / risk) / (n * before))
    return bets
