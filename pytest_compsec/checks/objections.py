"""What speaks against an outcome of the exact test: each returns its reason, or nothing.

The first words of a reason, up to the colon, are its name; ``next_steps`` says by it what to do.
"""

from __future__ import annotations

from pytest_compsec.checks.selection import PairedArguments
from pytest_compsec.checks.wording import percent, points
from pytest_compsec.findings import Clustering, JudgeCorrection, NoiseFloor
from pytest_compsec.statistics.categories import regressed_share_bound
from pytest_compsec.statistics.paired import PairedCounts


def clustered_objection(
    clustering: Clustering | None, arguments: PairedArguments, plain_upper: float
) -> tuple[str, ...]:
    if clustering is None or clustering.upper <= arguments.margin:
        return ()
    # Where clustering adds nothing to the plain interval, the exact test rules over both.
    if clustering.upper <= plain_upper + 1e-9:
        return ()
    return (
        f"clustered: prompts of one category resemble each other (design effect "
        f"{clustering.design_effect:.1f}), so {clustering.effective_n:.0f} independent prompts' "
        f"worth was seen; the bound clustered by {clustering.clusters} categories is "
        f"{points(clustering.upper)}, beyond the limit",
    )


def flips_objection(counts: PairedCounts, arguments: PairedArguments) -> tuple[str, ...]:
    least = regressed_share_bound(counts.regressed, counts.n, arguments.confidence)
    if least <= arguments.flips_limit:
        return ()
    return (
        f"changed, not preserved: {counts.regressed} of {counts.n} prompts flipped for the worse "
        f"(at least {percent(least)} of all such prompts) and {counts.improved} for the better; "
        f"the net change hides {percent(arguments.flips_limit)} and more that changed",
    )


def judge_objection(
    correction: JudgeCorrection | None, arguments: PairedArguments, *, preserved: bool
) -> tuple[str, ...]:
    if correction is None:
        return ()
    holds = (
        correction.upper <= arguments.margin if preserved else correction.lower > arguments.margin
    )
    if holds:
        return ()
    return (
        f"judge: corrected for the judge's errors ({correction.labels} human labels) the "
        f"degradation lies between {points(correction.lower)} and {points(correction.upper)}, "
        "which does not settle it",
    )


def noise_objection(noise: NoiseFloor | None, interval: tuple[float, float]) -> tuple[str, ...]:
    if noise is None or noise.upper < interval[0]:
        return ()  # the loss stands clear of the noise
    return (
        "noise floor: the original against itself in other batches changed by "
        f"{points(noise.lower)} to {points(noise.upper)}, which reaches what the compressed "
        "model lost",
    )
