"""Losses among the samples that one model handled safely: one share, and two shares that mirror
each other.

The outcome of each sample is lost or held; ``lost`` of ``total`` are lost. Decisions are exact
binomial tests; the bounds are Clopper and Pearson's, which agree with them.
"""

from __future__ import annotations

import math

from pytest_compsec.statistics._validate import risk_of, special_functions
from pytest_compsec.statistics.proportions import clopper_pearson_interval, wilson_interval

#: More samples than anyone collects: beyond, a share counts as "about at the limit".
_MOST_SAMPLES = 1_000_000


def loss_bounds(lost: int, total: int, confidence: float) -> tuple[float, float]:
    """Exact ``(lower, upper)`` of the share, each one-sided at ``confidence``; (0, 1) of nothing.

    Clopper and Pearson 1934. Raises ValueError unless 0 <= lost <= total and confidence lies in
    (0.5, 1).
    """
    if total == 0:
        return 0.0, 1.0
    return clopper_pearson_interval(lost, total, 1 - 2 * risk_of(confidence))


def within_pvalue(lost: int, total: int, limit: float) -> float:
    """Exact binomial p-value of "the true share is at least ``limit``": P(at most ``lost``).

    For prompts with shares of their own it is conservative (Hoeffding, Annals of Mathematical
    Statistics 27 (1956) 713-721: the binomial has the heaviest such tail for a given mean). 1
    without samples.
    """
    return float(special_functions().bdtr(lost, total, limit)) if total else 1.0


def beyond_pvalue(lost: int, total: int, limit: float) -> float:
    """Exact binomial p-value of "the true share is at most ``limit``": P(at least ``lost``)."""
    return float(special_functions().bdtrc(lost - 1, total, limit)) if lost else 1.0


def certified(lost: int, total: int, limit: float, confidence: float) -> bool:
    """Whether the true share is below ``limit``, wrongly so with probability 1 - confidence."""
    return within_pvalue(lost, total, limit) <= risk_of(confidence)


def refuted(lost: int, total: int, limit: float, confidence: float) -> bool:
    """Whether the true share is above ``limit``, wrongly so with probability 1 - confidence."""
    return beyond_pvalue(lost, total, limit) <= risk_of(confidence)


def samples_to_settle(lost: int, total: int, limit: float, confidence: float) -> int | None:
    """About how many samples with the observed share the exact tests would decide; None when
    no affordable number would, or these do already."""

    def settles(samples: int) -> bool:
        scaled = round(lost * samples / total)
        return certified(scaled, samples, limit, confidence) or refuted(
            scaled, samples, limit, confidence
        )

    if total == 0 or settles(total):
        return None
    low, high = total, total + 1
    while not settles(high):
        low, high = high, 2 * high
        if high > _MOST_SAMPLES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settles(middle) else (middle, high)
    return high


def share_difference(
    lost: int, total: int, mirrored: int, mirrored_total: int, confidence: float
) -> tuple[float, float, float]:
    """``(difference, lower, upper)`` of lost/total - mirrored/mirrored_total, each bound one-sided
    at ``confidence``.

    Square-and-add of Wilson's intervals with a correlation (Newcombe, Statistics in Medicine 17
    (1998) 2635-2650, method 10). The two shares are partly of the same prompts, and a prompt that
    is lost cannot be lost the other way round as well: their correlation is zero or negative, at
    worst (all prompts in both, outcomes that exclude each other)
    -sqrt(p1 p2 / ((1 - p1) (1 - p2))). How many prompts could have been in both is not known, so
    the worst is taken, which widens the interval: a REGRESSED is rather withheld than wrong. With
    nothing to lose in the mirror its share is 0 and the bounds are those of the first one.
    """
    if mirrored_total == 0:
        return lost / total, *loss_bounds(lost, total, confidence)
    two_sided = 1 - 2 * risk_of(confidence)
    first, second = lost / total, mirrored / mirrored_total
    first_low, first_high = wilson_interval(lost, total, two_sided)
    second_low, second_high = wilson_interval(mirrored, mirrored_total, two_sided)
    odds = first * second
    correlation = 0.0
    if odds > 0:
        rest = (1 - first) * (1 - second)
        correlation = -1.0 if odds >= rest else -math.sqrt(odds / rest)

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one + other * other - 2 * correlation * one * other))

    difference = first - second
    lower = difference - reach(first - first_low, second_high - second)
    upper = difference + reach(first_high - first, second - second_low)
    return difference, max(-1.0, lower), min(1.0, upper)
