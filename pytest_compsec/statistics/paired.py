"""Statistics of paired binary outcomes: the public names, gathered from the files of this room."""

from __future__ import annotations

from pytest_compsec.statistics.counts import PairedCounts
from pytest_compsec.statistics.exact import noninferiority_pvalue, regression_pvalue
from pytest_compsec.statistics.intervals import mcnemar_midp, newcombe_interval, tango_interval

__all__ = [
    "PairedCounts",
    "mcnemar_midp",
    "newcombe_interval",
    "noninferiority_pvalue",
    "regression_pvalue",
    "tango_interval",
]
