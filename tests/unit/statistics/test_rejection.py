"""The shortcuts of the power computation against the p-value itself, sample by sample."""

from __future__ import annotations

import pytest

from pytest_compsec.statistics.paired import PairedCounts, noninferiority_pvalue
from pytest_compsec.statistics.rejection import RejectionLimits


@pytest.mark.parametrize(
    ("n", "margin", "risk"), [(40, 0.02, 0.05), (60, 0.1, 0.025), (100, 0.02, 0.01)]
)
def test_the_limits_are_where_the_pvalue_crosses_the_risk(
    n: int, margin: float, risk: float
) -> None:
    last = n // 3
    limit = RejectionLimits(n, margin, risk).region(0, last, last).limit
    for improved in range(last + 1):
        for regressed in range(last + 1):
            table = PairedCounts(n - improved - regressed, improved, regressed, 0)
            certified = regressed <= limit[improved]
            if abs(regressed - limit[improved]) <= 1:
                assert (noninferiority_pvalue(table, margin) <= risk) == certified
