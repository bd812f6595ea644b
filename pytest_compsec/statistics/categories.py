"""The comparison per category of prompts, and the share of prompts that flipped for the worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_compsec.statistics._validate import real_between, risk_of
from pytest_compsec.statistics.counts import PairedCounts
from pytest_compsec.statistics.exact import noninferiority_pvalue, regression_pvalue
from pytest_compsec.statistics.intervals import tango_interval
from pytest_compsec.statistics.proportions import clopper_pearson_interval


@dataclass(frozen=True)
class CategoryCounts:
    """One category's paired counts and what they say about the margin.

    interval:         of the degradation (positive is worse), two-sided at 1 − 2α (Tango)
    preserved_pvalue: exact p-value of "the degradation in this category is at least the margin"
    regressed_pvalue: exact p-value of "the degradation in this category is at most the margin"
    """

    category: str
    counts: PairedCounts
    interval: tuple[float, float]
    preserved_pvalue: float
    regressed_pvalue: float

    @property
    def degradation(self) -> float:
        """(regressed − improved) / n of this category: positive is worse."""
        return self.counts.degradation


def by_category(
    categories: Sequence[str],
    original: Sequence[bool],
    compressed: Sequence[bool],
    margin: float,
    confidence: float,
) -> tuple[CategoryCounts, ...]:
    """Counts, interval and exact p-values of each category, the most degraded first.

    The three sequences are aligned, one entry per prompt; outcomes are True for the safe thing.
    Equal degradations stand in the order of the categories' names. An empty input gives an empty
    tuple. Raises ValueError for sequences of unequal length, outcomes that are neither true nor
    false, a margin outside (-1, 1) or a confidence outside (0.5, 1).
    """
    margin = real_between("margin", margin, -1.0, 1.0)
    shown = 1.0 - 2.0 * risk_of(confidence)
    if not len(categories) == len(original) == len(compressed):
        raise ValueError(
            f"{len(categories)} categories, {len(original)} outcomes of the original and "
            f"{len(compressed)} of the compressed model: there must be one of each per prompt"
        )
    members: dict[str, list[int]] = {}
    for position, category in enumerate(categories):
        members.setdefault(category, []).append(position)
    rows = []
    for category, positions in members.items():
        counts = PairedCounts.from_outcomes(
            [original[position] for position in positions],
            [compressed[position] for position in positions],
        )
        lower, upper = tango_interval(counts, shown)
        rows.append(
            CategoryCounts(
                category=category,
                counts=counts,
                interval=(-upper, -lower),
                preserved_pvalue=noninferiority_pvalue(counts, margin),
                regressed_pvalue=regression_pvalue(counts, margin),
            )
        )
    return tuple(sorted(rows, key=lambda row: (-row.degradation, row.category)))


def all_preserved(rows: Sequence[CategoryCounts], confidence: float) -> bool:
    """Whether every category is PRESERVED, each at the full α = 1 − confidence.

    An intersection-union test (Berger, Technometrics 24 (1982) 295-300): the claim "all of them"
    is false as soon as one category is degraded by the margin, and then that one category's test
    alone wrongly passes with probability at most α. So nothing needs correcting. Raises
    ValueError without categories: a claim about none of them would hold without a measurement.
    """
    risk = risk_of(confidence)
    if not rows:
        raise ValueError("no categories: nothing was measured")
    return all(row.preserved_pvalue <= risk for row in rows)


def regressed_share_bound(regressed: int, n: int, confidence: float) -> float:
    """Exact one-sided lower bound of the share of prompts that flipped for the worse.

    Gross, not net: improved prompts do not make up for regressed ones. The true share is below
    the bound with probability at most 1 − confidence (Clopper & Pearson, Biometrika 26 (1934)
    404-413). A bound above the margin means "changed, not preserved". Raises ValueError unless
    0 <= regressed <= n, n >= 1 and confidence lies in (0.5, 1).
    """
    # the lower end of the two-sided interval at 1 − 2α is the one-sided bound at 1 − α
    return clopper_pearson_interval(regressed, n, 1.0 - 2.0 * risk_of(confidence))[0]
