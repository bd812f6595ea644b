"""Error rates and stopping times of the early looks, by simulation; prints Markdown tables.

    python bench/statistics/early_stopping.py [RUNS]

RUNS (default 20,000) simulated test runs per row, five times as many for the error rates; two
minutes. Each draws every prompt's difference
independently with the rates of its category, orders the prompts as a run does, and applies
``statistics.sequential`` at every block end and ``statistics.exact`` at the end.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_compsec.statistics.ordering import Block, stratified_blocks
from pytest_compsec.statistics.rejection import RejectionLimits
from pytest_compsec.statistics.sequential import (
    SEQUENTIAL_SHARE,
    log_capital,
    look_schedule,
    mixed,
)

if TYPE_CHECKING:
    from pytest_compsec.statistics.score import Floats, Integers

MARGIN, RISK = 0.02, 0.05
_AT_ONCE = 5000
_SEED = 20


@dataclass(frozen=True)
class Category:
    """Prompts of one category and the chance that one of them improves or regresses."""

    prompts: int
    improved: float
    regressed: float


Scenario = tuple[Category, ...]


@dataclass(frozen=True)
class Runs:
    """What happened in each simulated run. Shapes (runs,) or, for ``evalues``, (runs, blocks)."""

    blocks: tuple[Block, ...]
    evalues: Floats  # logarithms
    improved: Integers
    regressed: Integers

    @property
    def n(self) -> int:
        return sum(map(len, self.blocks))

    def stopped_at(self, risk: float, looks: Sequence[int] | None = None) -> Integers:
        """Prompts answered when the e-process had reached 1 / risk; n + 1 where it never did."""
        ends = np.cumsum([len(block) for block in self.blocks])
        reached = np.maximum.accumulate(self.evalues, axis=1) >= -math.log(risk)
        if looks is not None:
            kept = np.array(looks) - 1
            ends, reached = ends[kept], reached[:, kept]
        at: Integers = np.where(reached.any(axis=1), ends[reached.argmax(axis=1)], self.n + 1)
        return at

    def beyond_at_the_end(self, risk: float) -> Integers:
        """1 where the exact test of all prompts says "beyond the margin" at ``risk``."""
        most = int(max(self.improved.max(), self.regressed.max()))
        limit = RejectionLimits(self.n, -MARGIN, risk).region(0, most, most).limit
        beyond: Integers = (self.improved <= limit[self.regressed]).astype(np.int64)
        return beyond


def alike(improved: float, regressed: float) -> Scenario:
    """The built-in harmful set, 16 categories of 54, all with the same rates."""
    return (Category(54, improved, regressed),) * 16


def uneven(bad: int, others: Sequence[int]) -> Scenario:
    """One category 30 points worse, the others a little better: degradation exactly the margin."""
    n = bad + sum(others)
    better = (0.3 * bad - MARGIN * n) / sum(others)
    return (Category(bad, 0.0, 0.3), *(Category(size, better, 0.0) for size in others))


def simulate(scenario: Scenario, runs: int, *, shuffled: bool = True) -> Runs:
    strata = [f"{c:02d}" for c, category in enumerate(scenario) for _ in range(category.prompts)]
    blocks = stratified_blocks(strata, _SEED)
    if not shuffled:  # the planted fault: the file's order, a look after every prompt
        blocks = tuple(Block((index,), (1.0,)) for index in range(len(strata)))
    order = np.array([index for block in blocks for index in block.indices])
    improved = np.repeat([c.improved for c in scenario], [c.prompts for c in scenario])[order]
    regressed = np.repeat([c.regressed for c in scenario], [c.prompts for c in scenario])[order]
    parts = []
    for rng, size in _portions(runs):
        draw = rng.random((size, len(order)))
        differences = (draw < regressed).astype(np.int8) - (draw > 1 - improved).astype(np.int8)
        logs = mixed(log_capital(blocks, differences, MARGIN))
        parts.append((logs, (differences == -1).sum(axis=1), (differences == 1).sum(axis=1)))
    return Runs(blocks, *(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _portions(runs: int) -> Iterator[tuple[np.random.Generator, int]]:
    starts = range(0, runs, _AT_ONCE)
    seeds = np.random.SeedSequence(_SEED).spawn(len(starts))
    for start, seed in zip(starts, seeds, strict=True):
        yield np.random.default_rng(seed), min(_AT_ONCE, runs - start)


def false_regressed(runs: int) -> None:
    own, final = RISK * SEQUENTIAL_SHARE, RISK * (1 - SEQUENTIAL_SHARE)
    scenarios = {
        "0 improved, 2 % regressed": alike(0.0, 0.02),
        "1 % improved, 3 % regressed": alike(0.01, 0.03),
        "5 % improved, 7 % regressed": alike(0.05, 0.07),
        "3 % improved, 3 % regressed": alike(0.03, 0.03),
        "130 prompts 30 points worse, 9 other categories better": uneven(
            130, (200, 120, 100, 90, 80, 60, 40, 24, 20)
        ),
        "60 prompts 30 points worse, 12 other categories better": uneven(60, (36,) * 12),
    }
    print(f"| True rates | n | early (at most {own:.1%}) | early or final (at most {RISK:.0%}) |")
    print("| --- | --- | --- | --- |")
    for name, scenario in scenarios.items():
        result = simulate(scenario, 5 * runs)
        early = result.stopped_at(own) <= result.n
        either = early | (result.beyond_at_the_end(final) == 1)
        print(f"| {name} | {result.n} | {early.mean():.2%} | {either.mean():.2%} |")
    fault = simulate(
        scenarios["130 prompts 30 points worse, 9 other categories better"],
        min(runs, 5000),
        shuffled=False,
    )
    rate = (fault.stopped_at(own) <= fault.n).mean()
    print(f"\nThe same 130 prompts first, a look after each prompt: {rate:.1%} false REGRESSED.")


def stopping_times(runs: int) -> None:
    own, final = RISK * SEQUENTIAL_SHARE, RISK * (1 - SEQUENTIAL_SHARE)
    print(
        "| Degradation | improved | median, block ends | median, looks "
        "| ended early, looks | REGRESSED | fixed n, full α |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for improved in (0.0, 0.02):
        for degradation in (0.05, 0.1, 0.2, 0.3, 0.5):
            result = simulate(alike(improved, improved + degradation), runs)
            at = result.stopped_at(own)
            looks = result.stopped_at(own, look_schedule(result.blocks))
            either = (at <= result.n) | (result.beyond_at_the_end(final) == 1)
            fixed = result.beyond_at_the_end(RISK).mean()
            print(
                f"| {degradation:.2f} | {improved:.2f} | {_median(at, result.n)} "
                f"| {_median(looks, result.n)} | {(looks < result.n).mean():.1%} "
                f"| {either.mean():.1%} | {fixed:.1%} |"
            )


def shares(runs: int) -> None:
    print(
        "| Share | "
        + " | ".join(f"median at {d:.2f}" for d in (0.05, 0.1, 0.3))
        + " | REGRESSED at .03 | at .04 |"
    )
    print("| --- " * 6 + "|")
    results = {d: simulate(alike(0.02, 0.02 + d), runs) for d in (0.03, 0.04, 0.05, 0.1, 0.3)}
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        cells = [f"{share:.2f}"]
        for degradation in (0.05, 0.1, 0.3):
            result = results[degradation]
            at = result.stopped_at(RISK * share) if share else np.full(runs, result.n + 1)
            cells.append(_median(at, result.n))
        for degradation in (0.03, 0.04):
            result = results[degradation]
            early = result.stopped_at(RISK * share) <= result.n if share else np.zeros(runs, bool)
            end = result.beyond_at_the_end(RISK * (1 - share)) == 1 if share < 1 else early
            cells.append(f"{(early | end).mean():.1%}")
        print("| " + " | ".join(cells) + " |")


def one_bet(runs: int) -> None:
    print(
        "| regress | one bet .5, α .05, every prompt | mixture, α .05, every prompt "
        "| mixture, α .05, block ends | as used: α .025, block ends |"
    )
    print("| --- " * 5 + "|")
    for regressed in (0.12, 0.3):
        result = simulate(alike(0.0, regressed), runs)
        single = simulate(alike(0.0, regressed), runs, shuffled=False)
        logs = np.concatenate([_plain_bet(regressed, rng, size) for rng, size in _portions(runs)])
        plain = replace(single, evalues=logs)
        cells = [
            _median(plain.stopped_at(RISK), plain.n),
            _median(single.stopped_at(RISK), single.n),
            _median(result.stopped_at(RISK), result.n),
            _median(result.stopped_at(RISK * SEQUENTIAL_SHARE), result.n),
        ]
        print(f"| {regressed:.0%} | " + " | ".join(cells) + " |")


def _plain_bet(regressed: float, rng: np.random.Generator, size: int) -> Floats:
    differences = (rng.random((size, 864)) < regressed).astype(np.float64)
    logs: Floats = np.log1p(0.5 * (differences - MARGIN)).cumsum(axis=1)
    return logs


def _median(at: Integers, n: int) -> str:
    middle = int(np.median(at))
    return str(middle) if middle <= n else f"{n} (not early)"


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    print(f"Margin {MARGIN}, confidence {1 - RISK:.2f}; {runs:,} runs a row, ", end="")
    print(f"{5 * runs:,} for the error rates\n")
    for title, table in (
        ("False REGRESSED", false_regressed),
        ("Prompts to REGRESSED, n = 864", stopping_times),
        ("Share of α for the early looks, 2 % improved", shares),
        ("Nothing improves, against a single bet", one_bet),
    ):
        print(f"### {title}\n")
        table(runs)
        print()


if __name__ == "__main__":
    main()
