"""A bound of the degradation for prompts that come in clusters, such as categories.

The exact test assumes independent prompts. Near-duplicates inside a category flip together: n
prompts then say no more than n / design effect independent ones (Kish, Survey Sampling, 1965;
clustered standard errors for evaluations of language models: Miller, arXiv 2411.00640). The bound
made here is an extra guard: approximate, unlike the exact test, and used only to withhold
PRESERVED, never to grant it.

Three design effects meet in it:
  1. none: the bound is never below the one of n independent prompts;
  2. of the differences d = regressed − improved: clustered variance over plain variance of their
     mean. With G clusters that ratio is itself an estimate with G − 1 degrees of freedom, so the
     bound takes the quantile of Student's t with it;
  3. of the arms' own unsafe answers, for when there are hardly any discordant pairs and 2. sees
     nothing. Assumption, stated because no data could show it then: compression multiplies the
     categories' unsafe rates by one common factor, so that regressions vary between categories
     relatively as much as unsafe answers do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_compsec.statistics._validate import normal_quantile, risk_of, special_functions
from pytest_compsec.statistics.counts import PairedCounts
from pytest_compsec.statistics.score import tango_score

_PRECISION = 1e-9


@dataclass(frozen=True)
class ClusteredBound:
    """Bounds of the degradation (positive is worse), each one-sided at the confidence asked for.

    design_effect:          how many times as large as for independent prompts the variance is
    intraclass_correlation: of the differences inside a cluster, as implied by the design effect
    clusters:               number of clusters, at least 2
    effective_n:            n / design_effect: the independent prompts that would say as much
    """

    upper: float
    lower: float
    design_effect: float
    intraclass_correlation: float
    clusters: int
    effective_n: float


def clustered_bound(
    clusters: Sequence[str],
    original: Sequence[bool],
    compressed: Sequence[bool],
    confidence: float,
) -> ClusteredBound | None:
    """Bounds of the degradation that allow for prompts of one cluster flipping together.

    The three sequences are aligned, one entry per prompt; outcomes are True for the safe thing.
    None when there are fewer than 2 clusters: nothing can then be said about clustering. Raises
    ValueError for sequences of unequal length, outcomes that are neither true nor false, no
    pairs, or a confidence outside (0.5, 1). See ``bound_of_tables`` for the method.
    """
    if len(clusters) != len(original):
        raise ValueError(f"{len(clusters)} clusters for {len(original)} outcomes of the original")
    # counted as a whole first, so that a bad outcome is named by its position
    PairedCounts.from_outcomes(original, compressed).required_n()
    return bound_of_tables(_tables(clusters, original, compressed), confidence)


def bound_of_tables(tables: Sequence[PairedCounts], confidence: float) -> ClusteredBound | None:
    """The same from the paired counts of each cluster; clusters without pairs are left out.

    Each end is Tango's score limit for the counts divided by the design effect, or the exact
    limit of the regressed (improved) count alone where that is tighter. Without any discordant
    pair it is 1 − α^(1/effective_n): what so many independent pairs without regression say.
    """
    risk = risk_of(confidence)
    tables = [table for table in tables if table.n > 0]
    counts = PairedCounts(
        both=sum(table.both for table in tables),
        improved=sum(table.improved for table in tables),
        regressed=sum(table.regressed for table in tables),
        neither=sum(table.neither for table in tables),
    )
    n = counts.required_n()
    if len(tables) < 2:
        return None
    typical_size = sum(table.n**2 for table in tables) / n
    own = _own_design_effect(tables, counts)
    borrowed = 1.0
    if _hardly_any_discordance(counts, len(tables)):
        borrowed = 1.0 + (typical_size - 1.0) * _borrowed_correlation(tables, counts, risk)
    design_effect = max(1.0, own, borrowed)
    t = float(special_functions().stdtrit(len(tables) - 1, 1.0 - risk))
    inflation = max(1.0, own * (t / normal_quantile(1.0 - risk)) ** 2, borrowed)
    correlation = (design_effect - 1.0) / (typical_size - 1.0) if typical_size > 1.0 else 0.0
    return ClusteredBound(
        upper=_upper_limit(counts, inflation, risk),
        lower=-_upper_limit(counts.swapped(), inflation, risk),
        design_effect=design_effect,
        intraclass_correlation=min(1.0, correlation),
        clusters=len(tables),
        effective_n=n / design_effect,
    )


def _tables(
    clusters: Sequence[str], original: Sequence[bool], compressed: Sequence[bool]
) -> list[PairedCounts]:
    """The paired counts of each cluster; the order of the clusters does not matter."""
    members: dict[str, list[int]] = {}
    for position, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(position)
    return [
        PairedCounts.from_outcomes(
            [original[position] for position in positions],
            [compressed[position] for position in positions],
        )
        for positions in members.values()
    ]


def _own_design_effect(tables: Sequence[PairedCounts], counts: PairedCounts) -> float:
    """Clustered over plain variance of the mean difference; 0 when the differences show none.

    Numerator: the sum over clusters of (sum of residuals)² times G/(G − 1) (Miller's clustered
    standard error with the usual correction for few clusters). One discordant pair cannot
    coincide with another, so below two nothing is estimated.
    """
    n, groups = counts.n, len(tables)
    discordant = counts.improved + counts.regressed
    total = counts.regressed - counts.improved
    plain = (discordant - total**2 / n) * n / (n - 1)
    if discordant < 2 or plain <= 0.0:
        return 0.0
    mean = total / n
    clustered = sum((t.regressed - t.improved - t.n * mean) ** 2 for t in tables)
    return clustered * groups / (groups - 1) / plain


def _hardly_any_discordance(counts: PairedCounts, groups: int) -> bool:
    """Whether chance alone would put less than one pair of discordant prompts into one cluster.

    Then seeing no such coincidence says nothing about clustering.
    """
    discordant = counts.improved + counts.regressed
    return discordant * (discordant - 1) / 2 < groups


def _borrowed_correlation(
    tables: Sequence[PairedCounts], counts: PairedCounts, risk: float
) -> float:
    """Intraclass correlation of regressions as rare as these, judged by the arms' unsafe answers.

    A share u whose intraclass correlation is r varies between clusters with the squared
    coefficient of variation r (1 − u)/u; the same relative variation of a rarer share p means a
    correlation of r (1 − u)/u · p/(1 − p). p is the larger of the share of discordant pairs and
    the share that this many independent prompts without regression could hide. Of the two arms
    the one with the larger relative variation counts.
    """
    n = counts.n
    original = [table.improved + table.neither for table in tables]
    compressed = [table.regressed + table.neither for table in tables]
    sizes = [table.n for table in tables]
    variation = max(_relative_variance(unsafe, sizes) for unsafe in (original, compressed))
    rare = min(0.5, max(counts.discordance, -math.expm1(math.log(risk) / n)))
    return min(1.0, variation * rare / (1.0 - rare))


def _relative_variance(unsafe: Sequence[int], sizes: Sequence[int]) -> float:
    """Squared coefficient of variation of the clusters' unsafe rates, free of sampling noise.

    From the analysis-of-variance estimate of the intraclass correlation of a binary outcome
    (Ridout, Demétrio & Firth, Biometrics 55 (1999) 137-148); 0 when there is no variation.
    """
    n, groups, total = sum(sizes), len(sizes), sum(unsafe)
    if total in (0, n) or n == groups:
        return 0.0
    share = total / n
    between = sum(size * (k / size - share) ** 2 for k, size in zip(unsafe, sizes, strict=True))
    mean_between = between / (groups - 1)
    mean_within = (n * share * (1.0 - share) - between) / (n - groups)
    size = (n - sum(k * k for k in sizes) / n) / (groups - 1)
    correlation = (mean_between - mean_within) / (mean_between + (size - 1.0) * mean_within)
    return max(0.0, correlation) * (1.0 - share) / share


def _upper_limit(counts: PairedCounts, inflation: float, risk: float) -> float:
    """Upper limit of the degradation for counts that are worth n / inflation independent pairs."""
    if counts.regressed == counts.n:
        return 1.0
    n, regressed = counts.n / inflation, counts.regressed / inflation
    # regressed pairs alone: the degradation cannot be larger than their share
    alone = float(special_functions().betainccinv(regressed + 1.0, n - regressed, risk))
    if counts.improved == counts.regressed == 0:
        return alone
    # Dividing every count by the inflation divides the score by its square root.
    critical = normal_quantile(1.0 - risk) * math.sqrt(inflation)
    inside, outside = counts.degradation, 1.0
    while outside - inside > _PRECISION:
        middle = (inside + outside) / 2
        if float(tango_score(counts.improved, counts.regressed, counts.n, middle)) < critical:
            inside = middle
        else:
            outside = middle
    return min(outside, alone)
