"""Exact unconditional one-sided tests of the degradation: what decides PRESERVED and REGRESSED.

Samples are ordered by Tango's score (Hsueh, Liu & Chen, Biometrics 57 (2001) 478-483; see
``score.evidence`` for the one addition), and the p-value is the largest probability, over every
discordance compatible with the data, of a sample at least as extreme as the observed one.
"Compatible" follows Berger & Boos (JASA 89 (1994) 1012-1016): the chance that a pair improves is
looked for inside its exact interval, which misses it with probability at most ``NUISANCE_RISK``,
and that risk is added to the p-value. The test stays exact, a discordance of 98 % no longer
speaks against data without any, and the search is short.

The promise: if the true degradation is at least the margin, P(p-value <= α) <= α for every α and
every discordance. By Barnard's convexity (see ``score``) the edge "degradation = margin" is the
worst case of that hypothesis, for each value of the improved probability; ``supremum`` bounds the
largest probability along the edge from above. A p-value is thus never understated; it is
overstated by at most a relative ``supremum.relative_tolerance`` (1e-5 up to 1,500 pairs).
"""

from __future__ import annotations

from pytest_compsec.statistics._validate import real_between
from pytest_compsec.statistics.counts import PairedCounts
from pytest_compsec.statistics.probability import largest_improved
from pytest_compsec.statistics.proportions import clopper_pearson_interval
from pytest_compsec.statistics.score import Region, evidence, region_at_least
from pytest_compsec.statistics.supremum import supremum_bounds

# Part of every error rate spent on the nuisance parameter; also the least p-value reported.
NUISANCE_RISK = 1e-6


def noninferiority_pvalue(counts: PairedCounts, margin: float) -> float:
    """Exact one-sided p-value of "the degradation is at least ``margin``".

    Small: the compressed model is less than ``margin`` worse than the original. ``margin`` lies
    in (-1, 1); a negative one asks for superiority. Raises ValueError for a margin outside or for
    counts without pairs.
    """
    margin = real_between("margin", margin, -1.0, 1.0)
    n = counts.required_n()
    threshold = float(evidence(counts.improved, counts.regressed, n, margin))
    nuisance = nuisance_range(counts.improved, n, margin)
    worst = supremum_bounds(region_for(threshold, n, margin, nuisance), margin, nuisance)
    return min(1.0, worst.ceiling + NUISANCE_RISK)


def regression_pvalue(counts: PairedCounts, margin: float) -> float:
    """Exact one-sided p-value of "the degradation is at most ``margin``".

    Small: the compressed model is more than ``margin`` worse. The mirror image of
    ``noninferiority_pvalue``: arms swapped, sign of the margin reversed.
    """
    return noninferiority_pvalue(counts.swapped(), -real_between("margin", margin, -1.0, 1.0))


def nuisance_range(improved: int, n: int, margin: float) -> tuple[float, float]:
    """Range of the smaller discordant probability compatible with ``improved`` of n pairs.

    Both ends follow from the exact limits of the improved probability. For a negative margin an
    improved probability below −margin has no point on the edge of the hypothesis; the edge's
    first point, 0, is worse than all of those, so the range is cut there, not emptied.
    """
    limits = clopper_pearson_interval(improved, n, 1.0 - NUISANCE_RISK)
    edge = (1.0 - abs(margin)) / 2
    low, high = (min(max(0.0, limit - max(0.0, -margin)), edge) for limit in limits)
    return low, high


def region_for(threshold: float, n: int, margin: float, nuisance: tuple[float, float]) -> Region:
    """{evidence >= threshold}, tabulated as far as this nuisance range can reach."""
    most = nuisance[1] + max(0.0, -margin)
    return region_at_least(threshold, n, margin, largest_improved(n, most))
