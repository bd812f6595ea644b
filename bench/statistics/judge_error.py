"""How often the corrected bound is too low: coverage tables as markdown.

    python bench/statistics/judge_error.py --runs 500

Each run draws prompts with true outcomes in both arms, lets a judge err, draws the label sheet as
``--compsec-export-labels`` does (all disagreements, a sample of agreements), and compares the
one-sided bounds at 95 % with the true degradation. "Below the truth" is the share of runs whose
upper bound is at or below it: were the truth at the margin, each would be a false PRESERVED of
this bound. The promise is at most .05.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pytest_compsec.reports.labels import sample_sizes
from pytest_compsec.statistics.misclassification import ArmRates, Stratum, corrected_degradation
from pytest_compsec.statistics.paired import PairedCounts, tango_interval

CONFIDENCE = 0.95
Booleans = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scenario:
    """Judge: (TPR, FPR) of each arm. ``earlier``: the labels come from another run, whose original
    truly refuses the share ``earlier_rate`` and whose degradation is ``earlier_degradation``."""

    what: str
    original: tuple[float, float]
    compressed: tuple[float, float]
    n: int = 864
    rate: float = 0.9
    degradation: float = 0.02
    improved: float = 0.02
    agreements: int = 100
    shared_errors: bool = False
    earlier: bool = False
    earlier_rate: float = 0.9
    earlier_degradation: float = 0.02


@dataclass(frozen=True)
class Run:
    """True and judged refusals, shape (n,) each: original, compressed."""

    truth: tuple[Booleans, Booleans]
    judged: tuple[Booleans, Booleans]

    def counts(self) -> PairedCounts:
        return PairedCounts.from_outcomes(self.judged[0].tolist(), self.judged[1].tolist())


FLATTERED = Scenario("judge misses less in the compressed arm", (0.80, 0.10), (0.95, 0.03))
HARMED = Scenario("judge misses more in the compressed arm", (0.95, 0.03), (0.80, 0.10))
FOOLED = Scenario(
    "judge fooled by 60 % of the compressed arm's answers", (1.0, 0.0), (1.0, 0.6), rate=0.98
)
GOOD = Scenario("good judge", (0.98, 0.02), (0.98, 0.02))
BASE = (
    FLATTERED,
    replace(FLATTERED, agreements=20),
    replace(FLATTERED, agreements=300),
    replace(FLATTERED, rate=0.6, degradation=0.1),
    HARMED,
    replace(HARMED, rate=0.98, agreements=60, improved=0.0),
    replace(FOOLED, improved=0.0, agreements=60),
    replace(FOOLED, improved=0.0, agreements=150),
    GOOD,
    replace(GOOD, shared_errors=True, what="good judge, same errors in both arms"),
)
#: No degradation: how near to 0 the bounds come.
POWER = tuple(
    replace(scenario, degradation=0.0, improved=0.01, agreements=agreements)
    for scenario in (GOOD, replace(GOOD, original=(0.995, 0.01), compressed=(0.995, 0.01)))
    for agreements in (100, 200, 400)
)


def simulate(
    random: np.random.Generator, scenario: Scenario, rate: float, degradation: float
) -> Run:
    regressed = degradation + scenario.improved
    cells = [rate - regressed, regressed, scenario.improved, 1 - rate - scenario.improved]
    cell = random.choice(4, size=scenario.n, p=np.clip(cells, 0, 1))
    truth = (cell <= 1, (cell == 0) | (cell == 2))
    luck = random.random(scenario.n)
    judged = []
    for true, (tpr, fpr) in zip(truth, (scenario.original, scenario.compressed), strict=True):
        judged.append(luck < np.where(true, tpr, fpr))
        if not scenario.shared_errors:
            luck = random.random(scenario.n)
    return Run(truth, (judged[0], judged[1]))


def label(random: np.random.Generator, run: Run, agreements: int) -> tuple[ArmRates, ArmRates]:
    """Draw the sheet as the export does and label it without error."""
    order = random.permutation(len(run.truth[0]))
    agree = run.judged[0] == run.judged[1]
    arms = []
    for name, true, judged in zip(("original", "compressed"), run.truth, run.judged, strict=True):
        members = {
            (outcome, same): order[(judged[order] == outcome) & (agree[order] == same)]
            for outcome in (True, False)
            for same in (True, False)
        }
        sizes = sample_sizes([len(members[True, True]), len(members[False, True])], agreements)
        strata = []
        for (outcome, same), rows in members.items():
            sample = rows[: sizes[0 if outcome else 1]] if same else rows
            strata.append(Stratum(outcome, same, len(rows), len(sample), int(true[sample].sum())))
        arms.append(ArmRates(name, tuple(strata)))
    return arms[0], arms[1]


def jeffreys_upper(
    random: np.random.Generator, counts: PairedCounts, arms: tuple[ArmRates, ArmRates], draws: int
) -> float:
    """The bound that was not chosen: posteriors with Jeffreys priors through Rogan and Gladen."""
    cells = np.array([counts.both, counts.improved, counts.regressed, counts.neither])
    pairs = random.dirichlet(cells + 0.5, size=draws).T
    truths = []
    for rates, judged in zip(arms, (pairs[0] + pairs[2], pairs[0] + pairs[1]), strict=True):
        strata = [stratum for stratum in rates.strata if stratum.population]
        share = random.dirichlet([stratum.population for stratum in strata], size=draws).T
        yes = np.array([stratum.refused for stratum in strata])[:, None] + 0.5
        no = np.array([s.labelled - s.refused for s in strata])[:, None] + 0.5
        refused = random.beta(yes, no, size=(len(strata), draws))
        seen = np.array([stratum.judged_refused for stratum in strata])
        tpr = (share * refused)[seen].sum(axis=0) / (share * refused).sum(axis=0)
        fpr = (share * (1 - refused))[seen].sum(axis=0) / (share * (1 - refused)).sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            truths.append(np.where(tpr > fpr, (judged - fpr) / (tpr - fpr), np.nan))
    difference = np.nan_to_num(truths[0] - truths[1], nan=1.0)
    return float(np.quantile(np.clip(difference, -1, 1), CONFIDENCE))


def measure(scenario: Scenario, runs: int, draws: int, seed: int) -> dict[str, Floats]:
    """Bounds of every method, shape (runs,) each, and the number of labels."""
    random = np.random.default_rng([seed, 864])
    found: dict[str, list[float]] = {
        name: [] for name in ("labels", "as judged", "jeffreys", "rates", "rates low", "same")
    }
    for _ in range(runs):
        run = simulate(random, scenario, scenario.rate, scenario.degradation)
        labelled = run
        if scenario.earlier:
            labelled = simulate(
                random, scenario, scenario.earlier_rate, scenario.earlier_degradation
            )
        arms = label(random, labelled, scenario.agreements)
        counts = run.counts()
        corrected = corrected_degradation(counts, *arms, CONFIDENCE, draws=draws)
        found["labels"].append(sum(arm.labelled for arm in arms))
        found["as judged"].append(-tango_interval(counts, 2 * CONFIDENCE - 1)[0])
        found["jeffreys"].append(jeffreys_upper(random, counts, arms, draws))
        found["rates"].append(corrected.upper)
        found["rates low"].append(corrected.lower)
        if not scenario.earlier:
            same = corrected_degradation(counts, *arms, CONFIDENCE, same_answers=True, draws=draws)
            found["same"].append(same.upper)
    return {name: np.array(values) for name, values in found.items()}


def table(title: str, scenarios: tuple[Scenario, ...], runs: int, draws: int, seed: int) -> None:
    print(f"\n{title}\n")
    print(
        "| judge | TPR / FPR original, compressed | true rate, degradation | agreements | labels "
        "(median) | below the truth: as judged | Jeffreys | error rates | same answers | above "
        "the truth: lower, error rates | median upper: as judged | error rates | same answers |"
    )
    print("| --- " * 13 + "|")
    for scenario in scenarios:
        found = measure(scenario, runs, draws, seed)
        truth = scenario.degradation

        def below(name: str, found: dict[str, Floats] = found, truth: float = truth) -> str:
            return f"{np.mean(found[name] <= truth):.3f}" if len(found[name]) else "–"

        def middle(name: str, found: dict[str, Floats] = found) -> str:
            return f"{np.median(found[name]):.3f}" if len(found[name]) else "–"

        (a, b), (c, d) = scenario.original, scenario.compressed
        print(
            f"| {scenario.what} | {a:g} / {b:g}, {c:g} / {d:g} | {scenario.rate:g}, {truth:g} | "
            f"{scenario.agreements} | {np.median(found['labels']):.0f} | {below('as judged')} | "
            f"{below('jeffreys')} | {below('rates')} | {below('same')} | "
            f"{np.mean(found['rates low'] >= truth):.3f} | {middle('as judged')} | "
            f"{middle('rates')} | {middle('same')} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--draws", type=int, default=2000, help="Monte Carlo draws per bound")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tables", type=int, nargs="+", default=[1, 2, 3, 4])
    options = parser.parse_args()
    size = options.runs, options.draws, options.seed
    error = math.sqrt(0.05 * 0.95 / options.runs)
    print(f"{options.runs} runs a row; .05 + 3 standard errors = {0.05 + 3 * error:.3f}")
    earlier = tuple(
        replace(
            scenario,
            earlier=True,
            earlier_rate=scenario.rate,
            earlier_degradation=scenario.degradation,
        )
        for scenario in BASE[:9]
    )
    elsewhere = tuple(
        replace(scenario, earlier=True, earlier_rate=0.6, earlier_degradation=0.2)
        for scenario in (FLATTERED, HARMED, GOOD)
    )
    tables = (
        ("Labels from the answers under test", BASE),
        ("Labels from an earlier run of the same models", earlier),
        ("Labels from models that refuse .60 and .40 in truth", elsewhere),
        ("Nothing lost: how far the bounds stay from 0", POWER),
    )
    for title, scenarios in [tables[number - 1] for number in options.tables]:
        table(title, scenarios, *size)


if __name__ == "__main__":
    main()
