"""Intervals and McNemar's test against an independent implementation, row by row."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from pytest_compsec.statistics.paired import (
    PairedCounts,
    mcnemar_midp,
    newcombe_interval,
    tango_interval,
)

HERE = Path(__file__).resolve()
COPY = HERE.parent / "data" / "paired_intervals.csv"
ORIGINAL = HERE.parents[3].parent / "shared" / "reference" / "paired_intervals.csv"
INTERVALS = {
    "Tango_asymptotic_score_CI_paired_2x2": tango_interval,
    "Newcombe_square_and_add_CI_paired_2x2": newcombe_interval,
}
MIDP = "McNemar_midP_test_paired_2x2"
# the reference solves its equations to about seven digits
TOLERANCE = 2e-7

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["method"] in {*INTERVALS, MIDP}]


def name(row: Row) -> str:
    counts = "-".join(row[cell] for cell in ("both", "improved", "regressed", "neither"))
    return f"{row['method'].split('_')[0]}-{counts}-{row['confidence']}"


def counts_of(row: Row) -> PairedCounts:
    return PairedCounts(*(int(row[cell]) for cell in ("both", "improved", "regressed", "neither")))


@pytest.mark.parametrize("row", read(COPY), ids=name)
def test_agrees_with_the_reference(row: Row) -> None:
    if row["method"] == MIDP:
        assert mcnemar_midp(counts_of(row)) == pytest.approx(float(row["lower"]), abs=TOLERANCE)
        return
    interval = INTERVALS[row["method"]](counts_of(row), float(row["confidence"]))
    assert interval == pytest.approx((float(row["lower"]), float(row["upper"])), abs=TOLERANCE)


def test_the_copy_holds_every_row_of_the_shared_reference() -> None:
    if not ORIGINAL.exists():
        pytest.skip(f"no shared reference data at {ORIGINAL}")
    assert read(COPY) == read(ORIGINAL)
    assert len(read(COPY)) == 84


TABLES = [
    PairedCounts(120, 1, 9, 34),
    PairedCounts(0, 3, 0, 0),
    PairedCounts(5, 0, 0, 0),
    PairedCounts(0, 4, 7, 0),
    PairedCounts(50000, 300, 400, 20000),
]


@pytest.mark.parametrize("interval", INTERVALS.values())
@pytest.mark.parametrize("counts", TABLES, ids=str)
def test_swapping_the_arms_mirrors_the_interval(counts: PairedCounts, interval: object) -> None:
    assert callable(interval)
    lower, upper = interval(counts, 0.95)
    assert interval(counts.swapped(), 0.95) == pytest.approx((-upper, -lower), abs=1e-12)
    assert -1.0 <= lower <= -counts.degradation <= upper <= 1.0


@pytest.mark.parametrize("interval", INTERVALS.values())
@pytest.mark.parametrize("counts", TABLES, ids=str)
def test_more_confidence_is_a_wider_interval(counts: PairedCounts, interval: object) -> None:
    assert callable(interval)
    narrow, wide = interval(counts, 0.8), interval(counts, 0.99)
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_midp_of_balanced_changes_cannot_be_small() -> None:
    assert mcnemar_midp(PairedCounts(0, 500, 500, 0)) > 0.98


def test_midp_survives_counts_beyond_the_range_of_powers_of_two() -> None:
    assert mcnemar_midp(PairedCounts(0, 5000, 0, 0)) == 0.0
    assert math.isclose(mcnemar_midp(PairedCounts(0, 49500, 50500, 0)), 0.00157, rel_tol=0.02)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, -0.5, math.nan])
@pytest.mark.parametrize("interval", INTERVALS.values())
def test_an_impossible_confidence_is_named(confidence: float, interval: object) -> None:
    assert callable(interval)
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\)"):
        interval(PairedCounts(1, 1, 1, 1), confidence)


@pytest.mark.parametrize("interval", INTERVALS.values())
def test_no_pairs_have_no_interval(interval: object) -> None:
    assert callable(interval)
    with pytest.raises(ValueError, match="no pairs"):
        interval(PairedCounts(0, 0, 0, 0), 0.95)
    with pytest.raises(ValueError, match="no pairs"):
        mcnemar_midp(PairedCounts(0, 0, 0, 0))
