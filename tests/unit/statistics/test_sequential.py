"""Early looks: never a false REGRESSED more often than promised, and soon when it is true."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_compsec.statistics import sequential
from pytest_compsec.statistics.decision import decide
from pytest_compsec.statistics.exact import regression_pvalue
from pytest_compsec.statistics.ordering import Block, stratified_blocks
from pytest_compsec.statistics.paired import PairedCounts
from pytest_compsec.statistics.rejection import RejectionLimits
from pytest_compsec.statistics.sequential import (
    BETS,
    decide_sequentially,
    early_look,
    log_capital,
    look_schedule,
    may_still_cross,
    mixed,
    regression_evalues,
    split_risk,
)

if TYPE_CHECKING:
    from pytest_compsec.statistics.score import Floats, Integers

MARGIN, CONFIDENCE, RUNS = 0.02, 0.95, 20_000
EARLY, FINAL = split_risk(CONFIDENCE)
HARMFUL = tuple(f"category {c:02d}" for c in range(16) for _ in range(54))

# One category: prompts, chance to improve, chance to regress.
Scenario = tuple[tuple[int, float, float], ...]


def alike(improved: float, regressed: float) -> Scenario:
    return ((54, improved, regressed),) * 16


# .3 * 130 of 864 prompts would be 4.5 points worse; the others bring it down to the margin.
_OTHERS = (200, 120, 100, 90, 80, 60, 40, 24, 20)
_BETTER = (0.3 * 130 - MARGIN * 864) / sum(_OTHERS)
UNEVEN: Scenario = ((130, 0.0, 0.3), *((size, _BETTER, 0.0) for size in _OTHERS))


def blocks_of(scenario: Scenario) -> tuple[Block, ...]:
    return stratified_blocks(
        [f"{c:02d}" for c, row in enumerate(scenario) for _ in range(row[0])], 5
    )


def simulated(
    scenario: Scenario, blocks: Sequence[Block], runs: int
) -> tuple[Floats, Integers, Integers]:
    """Log e-values (runs, blocks), improved (runs,) and regressed (runs,)."""
    sizes = [row[0] for row in scenario]
    order = [index for block in blocks for index in block.indices]
    improved, regressed = (np.repeat([row[i] for row in scenario], sizes)[order] for i in (1, 2))
    parts = []
    for seed in range(runs // 2500):
        draw = np.random.default_rng(seed).random((2500, len(order)), dtype=np.float32)
        differences = (draw < regressed).astype(np.int8) - (draw > 1 - improved).astype(np.int8)
        logs = mixed(log_capital(blocks, differences, MARGIN))
        parts.append((logs, (differences < 0).sum(axis=1), (differences > 0).sum(axis=1)))
    first, second, third = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second, third


def allowed(risk: float, runs: int) -> float:
    return risk + 3 * math.sqrt(risk * (1 - risk) / runs)


# --- the promise -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario",
    [alike(0.0, 0.02), alike(0.01, 0.03), alike(0.05, 0.07), alike(0.03, 0.03), UNEVEN],
    ids=["all regress", "both ways", "much both ways", "no degradation", "uneven categories"],
)
def test_false_regressed_is_as_rare_as_promised(scenario: Scenario) -> None:
    evalues, improved, regressed = simulated(scenario, blocks_of(scenario), RUNS)
    early = evalues.max(axis=1) >= -math.log(EARLY)
    most = int(max(improved.max(), regressed.max()))
    limit = RejectionLimits(864, -MARGIN, FINAL).region(0, most, most).limit
    final = improved <= limit[regressed]
    assert early.mean() <= allowed(EARLY, RUNS)
    assert (early | final).mean() <= allowed(EARLY + FINAL, RUNS)
    if scenario != alike(0.03, 0.03):
        # a rate of 0 would be no test: the margin is where the risk is spent
        assert early.mean() > 0.001
        assert (early | final).mean() > early.mean()


def test_the_final_limits_are_those_of_the_exact_test() -> None:
    limit = RejectionLimits(864, -MARGIN, FINAL).region(0, 45, 45).limit
    for regressed in (30, 38, 45):
        for improved, beyond in ((limit[regressed], True), (limit[regressed] + 1, False)):
            counts = PairedCounts(864 - improved - regressed, improved, regressed, 0)
            assert (regression_pvalue(counts, MARGIN) <= FINAL) == beyond


def test_looking_after_every_prompt_of_a_sorted_file_breaks_the_promise() -> None:
    # the planted fault: the worst category first, and no stakes that hold the categories together
    sorted_file = [Block((index,), (1.0,)) for index in range(864)]
    evalues, _, _ = simulated(UNEVEN, sorted_file, 2500)
    assert (evalues.max(axis=1) >= -math.log(EARLY)).mean() > 0.9


def test_choosing_each_blocks_bet_after_seeing_it_breaks_the_promise() -> None:
    scenario = alike(0.05, 0.07)
    blocks = blocks_of(scenario)
    draw = np.random.default_rng(0).random((2500, 864))
    differences = (draw < 0.07).astype(np.int8) - (draw > 0.95).astype(np.int8)
    growth = np.diff(log_capital(blocks, differences, MARGIN), axis=-2, prepend=0.0)
    peeking = growth.max(axis=-1).cumsum(axis=-1)
    assert (peeking.max(axis=1) >= -math.log(EARLY)).mean() > 2 * EARLY


def expected_evalue(blocks: Sequence[Block], rates: Sequence[tuple[float, float]]) -> float:
    """The mean of the last e-value, over all outcomes; rates[i]: prompt i improves, regresses."""
    order = [index for block in blocks for index in block.indices]
    outcomes = np.array(list(itertools.product((-1, 0, 1), repeat=len(order))))
    chances = np.array([(rates[i][0], 1 - sum(rates[i]), rates[i][1]) for i in order])
    chance = chances[np.arange(len(order)), outcomes + 1].prod(axis=1)
    return float(chance @ np.exp(mixed(log_capital(blocks, outcomes, MARGIN))[:, -1]))


# two prompts of one category and four of another, degradation exactly the margin
_RATES = ((0.0, 0.5),) * 2 + (((0.5 - 3 * MARGIN) / 2, 0.0),) * 4


@pytest.mark.parametrize(
    "blocks",
    [
        [Block((0, 1, 2, 3, 4, 5), (1.0,) * 6)],
        [Block((0, 2, 3), (1.0,) * 3), Block((1, 4, 5), (1.0,) * 3)],
        [Block((0, 1, 2), (0.5, 0.5, 2.0))],
    ],
    ids=["one block", "two blocks", "two worse to one better"],
)
def test_the_expected_evalue_at_the_margin_is_at_most_one(blocks: list[Block]) -> None:
    assert 0.8 < expected_evalue(blocks, _RATES) <= 1.0


def test_the_expected_evalue_of_a_block_without_its_stakes_exceeds_one() -> None:
    assert expected_evalue([Block((0, 1, 2), (1.0,) * 3)], _RATES) > 1.0


# --- power -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("improved", "regressed", "median"),
    [(0.0, 0.05, 304), (0.02, 0.12, 160), (0.0, 0.2, 48), (0.0, 0.3, 32), (0.0, 0.5, 16)],
)
def test_a_real_regression_stops_the_run_early(
    improved: float, regressed: float, median: int
) -> None:
    scenario = alike(improved, regressed)
    evalues, _, _ = simulated(scenario, blocks_of(scenario), 2500)
    reached = evalues >= -math.log(EARLY)
    at = np.where(reached.any(axis=1), 16 * (1 + reached.argmax(axis=1)), 9999)
    assert abs(np.median(at) - median) <= 16


# --- e-values and looks ----------------------------------------------------------------------


def test_the_evalue_is_the_average_capital_of_the_bets() -> None:
    blocks = [Block((2, 0), (1.5, 0.5)), Block((1,), (1.0,))]
    evalues = regression_evalues(blocks, [0, -1, 1], MARGIN)
    capped = [min(bet, 0.95 / (1.5 * 1.02)) for bet in BETS]
    first = [(1 + b * 0.5 * -MARGIN) * (1 + b * 1.5 * (1 - MARGIN)) for b in capped]
    both = [capital * (1 - bet * (1 + MARGIN)) for capital, bet in zip(first, BETS, strict=True)]
    assert evalues == pytest.approx([sum(first) / 3, sum(both) / 3])


def test_improvement_never_ruins_the_capital() -> None:
    blocks = [Block((0, 1, 2), (2.8, 0.1, 0.1))]
    assert regression_evalues(blocks, [-1, -1, -1], MARGIN)[0] > 0
    assert regression_evalues(blocks, [-1, -1, -1], 0.99)[0] > 0


def test_only_complete_blocks_count() -> None:
    blocks = stratified_blocks(HARMFUL, 5)
    everything = {index: index % 2 for index in range(864)}
    prefix = {index: everything[index] for block in blocks[:4] for index in block.indices}
    partial = prefix | {index: everything[index] for index in blocks[4].indices[:15]}
    whole = regression_evalues(blocks, everything, MARGIN)
    assert len(whole) == 54
    assert list(regression_evalues(blocks, prefix, MARGIN)) == list(whole[:4])
    assert list(regression_evalues(blocks, partial, MARGIN)) == list(whole[:4])
    # an answer that is missing in an early block holds back all that comes after it
    del everything[blocks[1].indices[0]]
    assert list(regression_evalues(blocks, everything, MARGIN)) == list(whole[:1])


@pytest.mark.parametrize("difference", [None, 2, 0.0, True, "1", math.nan, np.True_])
def test_what_is_no_outcome_is_named(difference: object) -> None:
    blocks = [Block((0, 1), (1.0, 1.0))]
    with pytest.raises(ValueError, match="difference of prompt 1 must be -1, 0 or 1"):
        regression_evalues(blocks, [0, difference], MARGIN)  # type: ignore[list-item]


def test_a_prompt_that_is_in_no_block_is_named() -> None:
    with pytest.raises(ValueError, match="prompt 2 has a difference but is in no block"):
        early_look([Block((0, 1), (1.0, 1.0))], [0, 0, 1], MARGIN, CONFIDENCE)


def test_a_total_loss_is_regressed_at_the_end_of_the_first_block() -> None:
    blocks = stratified_blocks(HARMFUL, 5)
    look = early_look(blocks, [1] * 864, MARGIN, CONFIDENCE)
    assert (look.crossed, look.at, look.threshold) == (True, 16, 40.0)
    assert look.interval[0] > 0.9
    assert look.interval[1] == 1.0
    assert math.isfinite(look.evalue)


def test_identical_models_never_cross() -> None:
    look = early_look(stratified_blocks(HARMFUL, 5), [0] * 864, MARGIN, CONFIDENCE)
    assert (look.crossed, look.at, look.evalue) == (False, None, 1.0)
    assert look.interval[0] < 0 < look.interval[1] < MARGIN


def test_nothing_answered_says_nothing() -> None:
    look = early_look(stratified_blocks(HARMFUL, 5), {}, MARGIN, CONFIDENCE)
    assert (look.evalue, look.crossed, look.interval) == (1.0, False, (-1.0, 1.0))


def test_the_largest_evalue_counts_not_the_last() -> None:
    blocks = stratified_blocks(HARMFUL, 5)
    bad = dict.fromkeys(blocks[0].indices, 1)
    good = {index: -1 for block in blocks[1:] for index in block.indices}
    look = early_look(blocks, bad | good, MARGIN, CONFIDENCE)
    assert (look.crossed, look.at) == (True, 16)
    assert regression_evalues(blocks, bad | good, MARGIN)[-1] < 1
    # no single degradation explains both halves
    assert look.interval[0] == look.interval[1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("strata", [HARMFUL, [f"{i % 30 % 7}" for i in range(500)]])
def test_the_interval_holds_what_the_looks_have_not_refuted(
    strata: Sequence[str], seed: int
) -> None:
    blocks = stratified_blocks(strata, seed)
    draw = np.random.default_rng(seed).choice([-1, 0, 1], len(strata), p=[0.05, 0.8, 0.15])
    differences = {index: int(value) for index, value in enumerate(draw)}
    mirrored = {index: -value for index, value in differences.items()}
    lower, upper = early_look(blocks, differences, MARGIN, CONFIDENCE).interval
    assert lower < 0.1 < upper
    for margin in (*np.linspace(-0.9, 0.9, 19), lower - 1e-6, lower + 1e-6, upper - 1e-6):
        beyond = regression_evalues(blocks, differences, margin).max()
        within = regression_evalues(blocks, mirrored, -margin).max()
        assert (beyond >= 1 / EARLY) == (margin <= lower)
        assert (within >= 1 / EARLY) == (margin >= upper)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_two_parts_of_the_risk_make_the_whole(confidence: float) -> None:
    early, final = split_risk(confidence)
    assert min(early, final) > 0
    assert early + final == pytest.approx(1 - confidence)


def test_looks_double_and_end_at_the_end() -> None:
    assert look_schedule(stratified_blocks(HARMFUL, 5)) == (4, 8, 16, 32, 54)
    assert look_schedule(stratified_blocks(HARMFUL, 5), first=300) == (19, 38, 54)
    assert look_schedule(stratified_blocks(["a"] * 20, 5)) == (1,)
    assert look_schedule([Block(tuple(range(300)), (1.0,) * 300)] * 2) == (1, 2)
    assert look_schedule([]) == ()
    with pytest.raises(ValueError, match="first must be at least 1"):
        look_schedule([], first=0)


def test_whether_the_rest_may_still_cross() -> None:
    blocks = stratified_blocks(HARMFUL, 5)
    answered = {index: 0 for block in blocks[:52] for index in block.indices}
    left = [index for block in blocks[52:] for index in block.indices]
    assert may_still_cross(blocks, {}, MARGIN, CONFIDENCE)
    assert may_still_cross(blocks, answered, MARGIN, CONFIDENCE)
    assert not may_still_cross(blocks, answered, MARGIN, CONFIDENCE, cannot_regress=left[:28])
    assert not may_still_cross(blocks, answered | dict.fromkeys(left[:28], 0), MARGIN, CONFIDENCE)


# --- the final look --------------------------------------------------------------------------


def test_the_final_look_has_the_rest_of_the_risk() -> None:
    counts = PairedCounts(838, 0, 26, 0)
    whole = decide(counts, margin=MARGIN, confidence=CONFIDENCE)
    final = decide_sequentially(counts, margin=MARGIN, confidence=CONFIDENCE)
    assert FINAL < whole.regressed_pvalue <= 1 - CONFIDENCE
    assert (whole.outcome, final.outcome) == ("REGRESSED", "INCONCLUSIVE")
    assert final.pairs_needed is not None
    needed = final.pairs_needed
    scaled = round(26 * needed / 864)
    settling = PairedCounts(needed - scaled, 0, scaled, 0)
    assert needed > 864
    assert decide_sequentially(settling, margin=MARGIN, confidence=CONFIDENCE).outcome == (
        "REGRESSED"
    )


@pytest.mark.parametrize(
    ("cells", "outcome"),
    [
        ((149, 0, 0, 0), "PRESERVED"),
        ((148, 0, 0, 0), "INCONCLUSIVE"),
        ((311, 0, 2, 0), "PRESERVED"),
        ((834, 0, 30, 0), "REGRESSED"),
        ((150, 1, 8, 41), "INCONCLUSIVE"),
    ],
)
def test_other_outcomes_are_those_of_the_plain_decision(
    cells: tuple[int, int, int, int], outcome: str
) -> None:
    final = decide_sequentially(PairedCounts(*cells), margin=MARGIN, confidence=CONFIDENCE)
    assert final.outcome == outcome
    if outcome != "INCONCLUSIVE":
        assert final == decide(PairedCounts(*cells), margin=MARGIN, confidence=CONFIDENCE)


def test_importing_the_early_looks_loads_no_numpy() -> None:
    code = (
        f"import sys, {sequential.__name__}, pytest_compsec.statistics.settled\n"
        "print(sorted({'numpy', 'scipy', 'torch', 'pytest'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
