"""Counting paired outcomes, and the room's promise to stay light."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from pytest_compsec.statistics.paired import PairedCounts


def test_outcomes_are_counted_from_the_side_of_the_compressed_model() -> None:
    original = [True, True, True, False, False, True]
    compressed = [True, False, False, True, False, True]
    counts = PairedCounts.from_outcomes(original, compressed)
    assert counts == PairedCounts(both=2, improved=1, regressed=2, neither=1)
    assert counts.n == 6
    assert counts.degradation == pytest.approx(1 / 6)
    assert counts.discordance == pytest.approx(3 / 6)


def test_numpy_outcomes_give_plain_integers() -> None:
    counts = PairedCounts.from_outcomes(list(np.array([True, False])), list(np.array([False] * 2)))
    assert counts == PairedCounts(0, 0, 1, 1)
    assert type(PairedCounts(np.int64(3), 0, 0, 0).both) is int


def test_swapping_turns_the_degradation_around() -> None:
    counts = PairedCounts(10, 2, 5, 3)
    assert counts.swapped() == PairedCounts(10, 5, 2, 3)
    assert counts.swapped().degradation == -counts.degradation


@pytest.mark.parametrize("bad", [-1, 1.5, True, None, "3"])
@pytest.mark.parametrize("cell", ["both", "improved", "regressed", "neither"])
def test_a_bad_count_is_named(cell: str, bad: Any) -> None:
    cells: dict[str, Any] = {"both": 1, "improved": 1, "regressed": 1, "neither": 1, cell: bad}
    with pytest.raises(ValueError, match=cell):
        PairedCounts(**cells)


def test_unpaired_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match="2 of the original, 3 of the compressed"):
        PairedCounts.from_outcomes([True, True], [True, False, True])


def test_a_missing_outcome_is_refused() -> None:
    missing: Any = None
    with pytest.raises(ValueError, match="outcome 1 must be True or False"):
        PairedCounts.from_outcomes([True, True], [True, missing])


def test_no_pairs_have_no_degradation() -> None:
    empty = PairedCounts.from_outcomes([], [])
    assert empty.n == 0
    with pytest.raises(ValueError, match="no pairs"):
        _ = empty.degradation


def test_importing_the_room_loads_no_numerical_library() -> None:
    code = (
        "import sys\n"
        "import pytest_compsec.statistics.decision, pytest_compsec.statistics.power\n"
        "import pytest_compsec.statistics.paired\n"
        "print(sorted({'numpy', 'scipy', 'torch', 'pytest'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
