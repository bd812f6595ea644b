"""Measured error rates of the statistics, as the tables of the documentation.

    python bench/statistics/error_rates.py [exact] [mean] [clusters] [--runs 4000]

Without a name, all three. The exact table is computed, not simulated; the other two are simulated
with fixed seeds. About three minutes of one core.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pytest_compsec.statistics.clusters import bound_of_tables
from pytest_compsec.statistics.mean_bound import paired_mean_bound
from pytest_compsec.statistics.paired import PairedCounts, noninferiority_pvalue
from pytest_compsec.statistics.probability import largest_improved
from pytest_compsec.statistics.rejection import RejectionLimits
from pytest_compsec.statistics.score import Region, tango_score
from pytest_compsec.statistics.supremum import supremum_bounds

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

MARGIN, CONFIDENCE, RISK = 0.02, 0.95, 0.05
NORMAL_QUANTILE = 1.6448536269514722
PAIRS = (149, 150, 183, 200, 300, 313, 480, 520, 864, 1000, 1500)


def heading(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |")
    print("|" + " --- |" * len(cells))


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


# --- the exact test ----------------------------------------------------------------------------


def false_preserved(region: Region, margin: float) -> tuple[float, float]:
    """Largest probability at a degradation of the margin, bounded from above, and where."""
    largest = (1.0 - margin) / 2
    found = supremum_bounds(region, margin, (0.0, largest))
    return found.ceiling, found.where


def exact() -> None:
    print("\n### Largest chance of a false PRESERVED, over every discordance\n")
    heading("n", "margin", "exact test, α = .05", "at p(improved)", "exact test, α = .025",
            "asymptotic interval, α = .05")  # fmt: skip
    for margin in (0.02, 0.05):
        last_improved = (1.0 - margin) / 2
        for n in PAIRS:
            last = largest_improved(n, last_improved)
            cells = [str(n), f"{margin:.2f}"]
            for risk in (RISK, RISK / 2):
                region = RejectionLimits(n, margin, risk).region(0, last, n)
                worst, where = false_preserved(region, margin)
                cells.append(rounded_up(worst) if worst > 1e-6 else "nothing certified")
                if risk == RISK:
                    cells.append(f"{where:.3f}")
            asymptotic = false_preserved(score_alone(n, margin, last), margin)[0]
            row(*cells, rounded_up(asymptotic))
    print("\n### One p-value at 1,500 pairs, margin 2 %\n")
    heading("improved", "regressed", "p-value", "seconds (best of 3)")
    for improved, regressed in ((0, 0), (0, 19), (15, 33), (60, 76), (700, 700)):
        table = PairedCounts(1500 - improved - regressed, improved, regressed, 0)
        pvalue, seconds = timed(partial(noninferiority_pvalue, table, MARGIN))
        row(str(improved), str(regressed), f"{pvalue:.4f}", f"{seconds:.3f}")


def rounded_up(share: float) -> str:
    """Four decimals that are never below the share: what is shown stays an upper bound."""
    return f"{math.ceil(share * 1e4) / 1e4:.4f}"


def score_alone(n: int, margin: float, last: int) -> Region:
    """What the upper end of Tango's interval at 1 − 2α would certify."""
    x = np.arange(min(last, n) + 1)
    low, high = np.full(x.shape, -1), n - x
    while bool((low < high).any()):
        middle = (low + high + 1) // 2
        inside = tango_score(x, np.maximum(middle, 0), n, margin) >= NORMAL_QUANTILE
        low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
    return Region(n, np.maximum.accumulate(low))


def timed(call: Callable[[], float]) -> tuple[float, float]:
    best, value = math.inf, 0.0
    for _ in range(3):
        start = time.perf_counter()
        value = call()
        best = min(best, time.perf_counter() - start)
    return value, best


# --- the bound of a mean -----------------------------------------------------------------------

Draw = Callable[[np.random.Generator, int], "Floats"]

POPULATIONS: dict[str, tuple[Draw, float]] = {
    "near-constant, .01 ± .02": (lambda g, n: 0.01 + 0.02 * g.uniform(-1, 1, n), 0.01),
    "skewed, beta(.2, 4)": (lambda g, n: g.beta(0.2, 4.0, n), 0.2 / 4.2),
    "two points, 5 % ones": (lambda g, n: (g.random(n) < 0.05).astype(np.float64), 0.05),
    "90 % zeros": (lambda g, n: np.where(g.random(n) < 0.9, 0.0, g.uniform(-1, 1, n)), 0.0),
    "−1 or 1, 60 % ones": (lambda g, n: np.where(g.random(n) < 0.6, 1.0, -1.0), 0.2),
}


def mean(runs: int) -> None:
    print(f"\n### Bound of a mean: share of {runs:,} runs that miss it, α = .05\n")
    heading("differences", "n", "lower end misses", "upper end misses", "normal approximation",
            "mean width", "Hoeffding's width")  # fmt: skip
    for name, (draw, centre) in POPULATIONS.items():
        for n in (20, 60, 300):
            generator = np.random.default_rng(20260101)
            missed, normal, width = np.zeros(2), np.zeros(2), 0.0
            for _ in range(runs):
                values = draw(generator, n)
                lower, upper = paired_mean_bound(values.tolist(), CONFIDENCE)
                missed += (lower > centre, upper < centre)
                width += upper - lower
                reach = NORMAL_QUANTILE * float(values.std(ddof=1)) / math.sqrt(n)
                average = float(values.mean())
                normal += (average - reach > centre, average + reach < centre)
            hoeffding = 4.0 * math.sqrt(math.log(1.0 / RISK) / (2 * n))
            row(name, str(n), *(f"{share:.4f}" for share in missed / runs),
                f"{normal.max() / runs:.3f}", f"{width / runs:.3f}",
                f"{min(2.0, hoeffding):.3f}")  # fmt: skip


# --- the clustered bound -----------------------------------------------------------------------


def clustered_rates(
    groups: int, size: int, degradation: float, flips: float, correlation: float, runs: int
) -> tuple[float, float]:
    """Share of runs PRESERVED by the exact test alone, and by it together with the bound.

    Regressed rates of the clusters are beta distributed with mean degradation + flips/2 and this
    intraclass correlation, improved ones are flips/2 everywhere; of the other prompts 15 % are
    unsafe in both arms, with an intraclass correlation of .1.
    """
    generator = np.random.default_rng(13)
    n = groups * size
    limit = RejectionLimits(n, MARGIN, RISK).region(0, n // 10, n).limit
    exact_only = both = 0

    def rates(centre: float, within: float) -> Floats:
        if within == 0.0 or centre == 0.0:
            return np.full(groups, centre)
        total = (1 - within) / within
        return generator.beta(centre * total, (1 - centre) * total, groups)

    for _ in range(runs):
        p_regressed = rates(degradation + flips / 2, correlation)
        regressed = generator.binomial(size, p_regressed)
        p_improved = np.minimum(1.0, flips / 2 / (1 - p_regressed))
        improved = generator.binomial(size - regressed, p_improved)
        unsafe = generator.binomial(size - regressed - improved, rates(0.15, 0.1))
        if regressed.sum() > limit[improved.sum()]:
            continue
        exact_only += 1
        tables = [
            PairedCounts(size - r - i - u, i, r, u)
            for r, i, u in zip(regressed, improved, unsafe, strict=True)
        ]
        bound = bound_of_tables(tables, CONFIDENCE)
        both += bound is not None and bound.upper <= MARGIN
    return exact_only / runs, both / runs


def clusters(runs: int) -> None:
    designs = ((16, 54), (8, 60), (16, 30))
    print(f"\n### False PRESERVED at a true degradation of 2 % = margin, α = .05 ({runs:,} runs)\n")
    heading("categories × prompts", "intraclass correlation", "improved",
            "exact test alone", "with the clustered bound")  # fmt: skip
    for groups, size in designs:
        for correlation in (0.0, 0.02, 0.05, 0.1):
            for flips in (0.0, 0.02):
                found = clustered_rates(groups, size, MARGIN, flips, correlation, runs)
                row(f"{groups} × {size}", f"{correlation:.2f}", f"{flips / 2:.2f}",
                    *(f"{share:.3f}" for share in found))  # fmt: skip
    print(f"\n### PRESERVED when nothing is degraded or clustered ({runs:,} runs)\n")
    heading("categories × prompts", "discordance", "exact test alone", "with the clustered bound",
            "lost")  # fmt: skip
    for groups, size in (*designs, (6, 144), (4, 216), (2, 432)):
        for flips in (0.0, 0.005, 0.02, 0.03):
            alone, both = clustered_rates(groups, size, 0.0, flips, 0.0, runs)
            row(f"{groups} × {size}", f"{flips:.3f}", f"{alone:.3f}", f"{both:.3f}",
                f"{alone - both:.3f}")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measured error rates, as markdown tables.")
    parser.add_argument("tables", nargs="*", help="exact, mean, clusters (default: all)")
    parser.add_argument("--runs", type=int, default=4000, help="simulated runs of each cell")
    chosen = parser.parse_args(arguments)
    known: dict[str, Callable[[], None]] = {
        "exact": exact,
        "mean": partial(mean, chosen.runs),
        "clusters": partial(clusters, chosen.runs),
    }
    for name in chosen.tables:
        if name not in known:
            parser.error(f"no table called {name!r}; there are {', '.join(known)}")
    for name in chosen.tables or known:
        known[name]()


if __name__ == "__main__":
    main()
