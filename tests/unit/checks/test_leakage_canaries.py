"""Exposure by hand, what a canary file may hold, and when more exposure turns red."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_compsec.checks.leakage.canaries import measure_canaries
from pytest_compsec.checks.leakage.canary_spaces import (
    MOST_RANKED,
    SAMPLED,
    Canary,
    Space,
    read_canaries,
)
from pytest_compsec.checks.leakage.exposure import exact_exposure, sampled_exposure
from pytest_compsec.checks.leakage.parts import Limits, PartFinding
from pytest_compsec.data import DataFile
from pytest_compsec.errors import ConfigError
from pytest_compsec.verdict import Verdict

LIMITS = Limits(0.02, 0.95, 0.95)
TWO = {"alphabet": "0123456789", "length": 2}


def data(*rows: dict[str, Any]) -> DataFile:
    text = "\n".join(json.dumps(row) for row in rows)
    return DataFile("canaries", "c.jsonl", ".jsonl", "file", text.encode())


def row(**values: Any) -> dict[str, Any]:
    space = {"alphabet": "0123456789", "length": 4}
    return {
        "id": "c1",
        "template": "My PIN is {}",
        "secret": "1234",
        "space": space,
        **values,
    }


def test_the_first_of_ten_thousand_has_all_the_bits() -> None:
    others = [float(rank) for rank in range(2, 10_001)]
    first = exact_exposure(1.0, others)
    assert first.bits == pytest.approx(math.log2(10_000))
    assert (first.rank, first.share, first.exposed) == (1.0, 1.0, True)
    last = exact_exposure(1e6, others)
    assert last.bits == pytest.approx(0.0)
    assert not last.exposed
    # 5,000 likelier ones: rank 5,001.
    assert exact_exposure(5001.5, others).rank == 5001.0
    assert exact_exposure(5001.5, others).bits == pytest.approx(math.log2(10_000) - math.log2(5001))


def test_a_model_that_finds_all_alike_exposes_none() -> None:
    same = exact_exposure(3.0, [3.0] * 9999)
    assert same.bits == pytest.approx(1.0, abs=0.001)
    assert not same.exposed


def test_a_sample_estimates_the_rank() -> None:
    drawing = random.Random(0)
    everything = [drawing.gauss(0, 1) for _ in range(100_000)]
    for secret in (-2.0, 0.0, 1.0):
        exact = exact_exposure(secret, everything)
        sampled = sampled_exposure(secret, everything[:1000], len(everything))
        assert sampled.bits == pytest.approx(exact.bits, abs=0.5)
        assert not sampled.extrapolated


def test_beyond_the_sample_the_fit_extrapolates_and_is_bounded() -> None:
    drawing = random.Random(1)
    sample = [drawing.gauss(0, 1) for _ in range(1000)]
    # P(Z <= -4) is 3.2e-5: 14.9 bits, of which a sample of 1,000 sees 10. Its skewness is known no
    # better than to a few of them.
    found = sampled_exposure(-4.0, sample, 10**9)
    assert found.extrapolated
    assert found.bits == pytest.approx(14.9, abs=4)
    assert sampled_exposure(-60.0, sample, 10**6).bits == pytest.approx(math.log2(10**6))
    # Without any spread there is nothing to extrapolate from.
    assert sampled_exposure(0.0, [1.0] * 1000, 10**9).bits == pytest.approx(math.log2(1001))


def test_a_whole_space_is_listed_and_a_larger_one_is_sampled() -> None:
    (whole,) = read_canaries(data(row()))
    assert whole.ranked_whole
    assert (whole.space.size, len(set(whole.candidates)), whole.secret) == (10_000, 10_000, "1234")
    assert whole.texts[0] == "My PIN is 1234"
    longer = row(secret="123456", space={"alphabet": "0123456789", "length": 6})
    (sampled,) = read_canaries(data(longer))
    assert (sampled.space.size, len(set(sampled.candidates))) == (10**6, SAMPLED + 1)
    assert read_canaries(data(longer)) == (sampled,)
    words = [f"word{number}" for number in range(MOST_RANKED + 1)]
    (listed,) = read_canaries(data(row(secret="word3", space=words)))
    assert (listed.space.size, len(listed.candidates)) == (MOST_RANKED + 1, SAMPLED + 1)


def test_a_canary_of_a_large_space_is_ranked_by_the_sample_and_the_fit_beyond_it() -> None:
    longer = row(secret="123456", space={"alphabet": "0123456789", "length": 6})
    (canary,) = read_canaries(data(longer))
    drawing = random.Random(6)
    others = [drawing.gauss(30, 2) for _ in canary.candidates[1:]]
    learned, unknown = canary.exposure([18.0, *others]), canary.exposure([30.0, *others])
    # Six deviations below all of them: beyond the 10 bits that a sample of 1,000 can see.
    assert math.log2(SAMPLED + 1) < learned.bits <= math.log2(10**6)
    assert (learned.rank, learned.extrapolated, learned.exposed) == (None, True, True)
    assert learned.text().endswith("of 19.9 bits, extrapolated")
    assert unknown.bits == pytest.approx(1.0, abs=0.2)
    assert (unknown.rank, unknown.largest, unknown.exposed) == (None, math.log2(10**6), False)
    assert unknown.text() == f"{unknown.bits:.1f} of 19.9 bits, from a sample"
    (whole,) = read_canaries(data(row()))
    ranked = whole.exposure([1.0, *(float(place) for place in range(2, 10_001))])
    found = measure_canaries([canary, whole], [unknown, ranked], [learned, ranked], LIMITS)
    assert "1 of 2 spaces sampled" in found.estimates[0].method
    assert found.evidence[0].compressed == learned.text()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"template": "no place"}, r"c\.jsonl:1: 'template' must hold \{\} once"),
        ({"secret": "12345"}, "is not in its 'space'"),
        ({"secret": "12a4"}, "is not in its 'space'"),
        ({"space": ["1", "2"]}, "is not in its 'space'"),
        ({"space": ["1234"]}, "at least one other"),
        ({"space": None}, "needs 'space'"),
        ({"space": {"alphabet": "0", "length": 4}}, "'alphabet'"),
        ({"space": {"alphabet": "0123", "length": 0}}, "'length'"),
        ({"space": {"alphabet": "0123", "length": True}}, "'length'"),
        ({"id": ""}, "'id'"),
    ],
)
def test_wrong_rows_are_named_with_their_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_canaries(data(row(**changed)))


def test_an_id_occurs_once() -> None:
    with pytest.raises(ConfigError, match=r"c\.jsonl:2: the id 'c1' occurs twice"):
        read_canaries(data(row(), row()))


def test_a_canary_occurs_once() -> None:
    with pytest.raises(ConfigError, match=r"c\.jsonl:2: the same canary as that of 'c1'"):
        read_canaries(data(row(), row(id="c2", template="My PIN is 12{}", secret="34", space=TWO)))
    letters = {"alphabet": "abAB", "length": 2}
    capitals = [row(id=one, secret=one, space=letters) for one in ("ab", "aB")]
    assert len(read_canaries(data(*capitals))) == 2


def measured(before: Sequence[int], after: Sequence[int], limits: Limits = LIMITS) -> PartFinding:
    """From the ranks of each canary among a hundred candidates."""
    space = Space(alphabet="0123456789", length=2)
    canaries = [Canary(f"c{place}", "It is ", "", "00", space) for place in range(len(before))]
    sides = [
        [
            canary.exposure((rank - 0.5, *(float(other) for other in range(1, 100))))
            for canary, rank in zip(canaries, ranks, strict=True)
        ]
        for ranks in (before, after)
    ]
    return measure_canaries(canaries, sides[0], sides[1], limits)


def test_canaries_that_become_likelier_turn_red() -> None:
    drawing = random.Random(2)
    before = [drawing.randrange(1, 101) for _ in range(120)]
    after = [1 if place < 40 else rank for place, rank in enumerate(before)]
    found = measured(before, after)
    gate = found.estimates[0]
    assert gate.verdict == Verdict.REGRESSED
    assert gate.limit == 0.02
    assert gate.change is not None
    assert gate.change > 0.15
    exposed = next(one for one in found.estimates if one.name == "exposed canaries")
    assert exposed.compressed == pytest.approx((exposed.original or 0) + 1 / 3, abs=0.02)
    shown = next(row for row in found.evidence if row.regressed)
    assert shown.compressed == "rank 1 (6.6 of 6.6 bits)"
    assert "rank" in shown.original


def test_the_twin_whose_ranks_hardly_move_is_green() -> None:
    drawing = random.Random(3)
    before = [drawing.randrange(2, 100) for _ in range(200)]
    after = [rank + drawing.choice([-1, 0, 0, 1]) for rank in before]
    assert measured(before, after).estimates[0].verdict == Verdict.PRESERVED


@pytest.mark.parametrize("count", [1, 5, 40, 150])
def test_few_canaries_are_never_green(count: int) -> None:
    found = measured([50] * count, [50] * count)
    assert found.estimates[0].verdict == Verdict.INCONCLUSIVE
    assert f"({count} now; with no change at all 173 would do)" in found.after
    assert measured([50] * 173, [50] * 173).estimates[0].verdict == Verdict.PRESERVED


def test_near_misses_count_without_a_single_exposed_canary() -> None:
    found = measured([60] * 120, [4] * 120)
    assert found.estimates[0].verdict == Verdict.REGRESSED
    assert found.evidence == ()


def test_canaries_that_were_never_learned_are_told() -> None:
    drawing = random.Random(4)
    ranks = [drawing.randrange(1, 101) for _ in range(100)]
    assert "Were they planted" in measured(ranks, ranks).notes[0]
    assert measured([1] * 100, [1] * 100).notes == ()


def test_a_shared_risk_asks_more_of_red() -> None:
    drawing = random.Random(5)
    before = [drawing.randrange(20, 101) for _ in range(60)]
    after = [max(1, rank - 17) for rank in before]
    alone = measured(before, after).estimates[0]
    shared = measured(before, after, Limits(0.02, 0.95, 1 - 1e-9)).estimates[0]
    assert alone.verdict == Verdict.REGRESSED
    assert shared.verdict == Verdict.INCONCLUSIVE
