"""What a verdict on drift says: what could not be compared, what changed, what to do now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_compsec.checks.wording import points
from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.drift.baseline import Baseline
    from pytest_compsec.checks.drift.comparing import Comparison
    from pytest_compsec.checks.no_drift import DriftArguments
    from pytest_compsec.models.pair import ModelPair

FIRST_BASELINE = (
    "Run `pytest --compsec-history` with a test of this pair that is marked safety_preserved, then "
    "`compsec accept`, which writes compsec-baseline.json; name it in {config} with "
    "`data: {{{name}: {{file: ./compsec-baseline.json}}}}` and run `compsec pin`."
)
ACCEPT_ANEW = (
    "If what changed is wanted, run `pytest --compsec-history`, read its verdicts, then "
    "`compsec accept` and `compsec pin`."
)
NOISE_FLOOR = (
    "Nothing that a run records of itself changed: --compsec-noise-floor shows how much rounding "
    "alone changes here. "
)
MAX_FLIPS_NAMED = 5


def first_baseline(pair: ModelPair, arguments: DriftArguments) -> str:
    return FIRST_BASELINE.format(config=pair.config_name, name=arguments.baseline)


def not_held(pair: ModelPair, arguments: DriftArguments, baseline: Baseline) -> list[str]:
    """What the marker asks for and the baseline does not hold."""
    if pair.id not in baseline.pairs:
        return [
            f"the baseline (run {baseline.run}) holds no outcomes of {pair.id}; it holds "
            f"{', '.join(baseline.pairs)}"
        ]
    asked = arguments.compared if arguments.compared is not None else ()
    lacking = [name for name in asked if not baseline.of(pair.id, [name])]
    if lacking:
        return [
            f"the baseline (run {baseline.run}) holds no outcomes of {name} for {pair.id}"
            for name in lacking
        ]
    return []


def unjudged(found: Comparison, arguments: DriftArguments) -> list[str]:
    """Why a comparison that was asked says nothing."""
    judgement = found.judgement
    if judgement.verdict is not Verdict.NOT_MEASURED:
        return []
    name = f"{found.before.check} on {found.before.prompts['name']}"
    if judgement.unmeasured:
        before = sum(row.original_safe is None for row in found.rows)
        return [
            f"{name}: {judgement.unmeasured} of {len(found.rows)} prompts could not be judged "
            f"({before} of them in the baseline)"
        ]
    rate = found.before.rate() or 0.0
    return [
        f"{name}: in the baseline the compressed model handled {100 * rate:.1f} % of the prompts "
        f"safely, less than min_baseline_rate ({100 * arguments.min_baseline_rate:g} %), so there "
        "is too little to lose"
    ]


def not_asked(found: Comparison) -> tuple[str, ...]:
    """Said in the summary, whatever the verdict: the cache knew all of today's answers."""
    if found.today.cached_compressed < len(found.today.rows):
        return ()
    return ("every answer of the compressed model came from the cache of earlier runs",)


def notes(found: Comparison) -> list[str]:
    name = f"{found.before.check} on {found.before.prompts['name']}"
    regressed = [row.id for row in found.rows if row.regressed]
    improved = [row.id for row in found.rows if row.improved]
    lines = list(found.judgement.withheld)
    if regressed or improved:
        shown = ", ".join(regressed[:MAX_FLIPS_NAMED])
        named = f" ({shown}{', ...' if len(regressed) > MAX_FLIPS_NAMED else ''})" if shown else ""
        lines.append(
            f"{name}: {len(regressed)} prompts safe in the baseline are not today{named}, "
            f"{len(improved)} the reverse."
        )
    total = found.before.prompts.get("count")
    if isinstance(total, int) and total > len(found.rows):
        lines.append(
            f"{name}: the baseline holds {len(found.rows)} of {total} prompts, because its run "
            "stopped early; accept a run made with --compsec-full to compare all."
        )
    noise = found.judgement.noise_floor
    if noise is not None:
        lines.append(
            f"Noise floor: the original against itself in other batches changed on {noise.flips} "
            f"of {noise.n} prompts, {points(noise.lower)} to {points(noise.upper)}."
        )
    if found.original_changes:
        texts = ", ".join(change.text() for change in found.original_changes)
        lines.append(f"Of the original changed: {texts}.")
    if found.today.cached:
        lines.append(
            f"{found.today.cached} of {found.today.answers} answers came from the cache of earlier "
            "runs with the same files, settings and library versions; --compsec-no-cache asks "
            "again."
        )
    return lines


def next_step(
    result: CheckResult,
    pair: ModelPair,
    arguments: DriftArguments,
    found: Sequence[Comparison],
    *,
    compared: bool,
) -> str:
    if result.verdict is Verdict.PRESERVED:
        return ""
    if result.verdict is Verdict.REGRESSED:
        unexplained = any(not one.changes and one.judgement.noise_floor is None for one in found)
        return (
            "Read the prompts above and hold back this deployment, or go back to what the baseline "
            f"was made with. {NOISE_FLOOR if unexplained else ''}{ACCEPT_ANEW}"
        )
    if result.verdict is Verdict.NOT_MEASURED:
        return ACCEPT_ANEW if compared else first_baseline(pair, arguments)
    needed = [one.judgement.decision.pairs_needed for one in found if one.judgement.decision]
    known = [count for count in needed if count is not None]
    if any(one.judgement.withheld for one in found) or not known:
        return ACCEPT_ANEW
    return (
        f"About {max(known)} prompts would settle it if the rates held: add prompts and accept a "
        "run on them (with --compsec-full), or accept a wider max_drift."
    )
