"""One comparison: an entry of the baseline against what both models do today, paired by prompt.

Decided as a paired refusal check, the baseline in the place of the original model
(:mod:`pytest_compsec.checks.deciding`), with every guard that holds there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.circumstances import measured_noise
from pytest_compsec.checks.deciding import (
    Circumstances,
    Judgement,
    counts_of,
    judge_evidence,
)
from pytest_compsec.checks.drift.asking import Today, ask_today
from pytest_compsec.checks.drift.causes import Change, cause_sentence, changes_between, short
from pytest_compsec.checks.drift.outcomes import REFUSING_IS_SAFE, ByPrompt, Outcomes, outcome_part
from pytest_compsec.checks.drift.pins import pins_of_pair
from pytest_compsec.checks.estimates import POINTS, shared_confidence
from pytest_compsec.checks.selection import PairedArguments, paired_arguments
from pytest_compsec.errors import ConfigError
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.models.served.wording import coherence_objection
from pytest_compsec.statistics.decision import METHOD, decide
from pytest_compsec.verdict import Evidence, Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.no_drift import DriftArguments
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.prompts import PromptSet

#: In the place of the original's answer: what is compared with is the baseline, of which there are
#: outcomes only.
NOT_KEPT = "(the baseline's answer: not kept)"
SEVERAL = (
    "several: beyond the limit on these prompts, but not after Bonferroni's correction for the "
    "{count} comparisons"
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """``rows``: the baseline in the place of the original, today in that of the compressed model,
    of the same compressed model; ``own`` the same of the original model. ``provenance``: what
    today's outcomes were made with."""

    before: Outcomes
    today: Today
    rows: tuple[Evidence, ...]
    own: tuple[Evidence, ...]
    judgement: Judgement
    changes: tuple[Change, ...]
    original_changes: tuple[Change, ...]
    cause: str
    provenance: dict[str, Any]
    part: dict[str, Any]
    missing: tuple[str, ...] = ()


def incomparable(pair: ModelPair, before: Outcomes) -> str | None:
    """Why today's outcomes could not be held against this entry, or None.

    Raises IntegrityError when the prompts or the judge are not what the lock pins.
    """
    name, accept = before.prompts["name"], "accept a run made with today's"
    try:
        prompt_set = pair.prompt_set(name)
    except ConfigError as error:
        return f"{before.check} on {name}: {error}"
    if prompt_set.digest != before.prompts["digest"]:
        return (
            f"the prompts {name!r} are others than the baseline's (digest "
            f"{short(before.prompts['digest'])} -> {short(prompt_set.digest)}); {accept}"
        )
    judge = pair.judge
    if judge.digest != before.judge["digest"]:
        return (
            f"the judge is another than the baseline's ({before.judge['name']} "
            f"{short(before.judge['digest'])} -> {judge.name} {short(judge.digest)}), which alone "
            f"may change outcomes; {accept}"
        )
    unknown = before.compressed.keys() - {prompt.id for prompt in prompt_set.prompts}
    if unknown:
        return f"the baseline names a prompt {min(unknown)!r} that is not in {name!r}"
    return None


def compare(
    pair: ModelPair, before: Outcomes, arguments: DriftArguments, *, comparisons: int
) -> Comparison:
    """Ask what ``before`` holds, and decide. ``comparisons``: how many share the risk of a false
    REGRESSED."""
    prompt_set = pair.prompt_set(before.prompts["name"])
    today = ask_today(
        pair, prompt_set, before.compressed.keys(), refusing_is_safe=REFUSING_IS_SAFE[before.check]
    )
    asked = [row for row in today.rows.values() if row.id in before.compressed]
    rows = tuple(against(row, before.compressed, row.compressed_safe) for row in asked)
    own = tuple(against(row, before.original, row.original_safe) for row in asked)
    provenance = pair.provenance(prompt_set)
    pins = pins_of_pair(pair, provenance)
    changes, of_original = (
        changes_between(before.provenance, provenance, before.pins, pins, arm=arm)
        for arm in ("compressed", "original")
    )
    served = bool(provenance["compressed"].get("served"))
    judgement = _judged(pair, prompt_set, today, rows, arguments, comparisons, rounding=not changes)
    return Comparison(
        before=before,
        today=today,
        rows=rows,
        own=own,
        judgement=judgement,
        changes=changes,
        original_changes=of_original,
        cause=cause_sentence(
            changes,
            moved=any(row.original_safe != row.compressed_safe for row in rows),
            same_lock=before.provenance.get("lock_digest") == pair.lock_digest,
            served=served,
        ),
        provenance=provenance,
        part=outcome_part(
            before.check, provenance["prompts"], provenance["judge"], today.rows.values()
        ),
        missing=(*(_not_asked(before, today) if served else ()), *_unseen(before, provenance)),
    )


def against(row: Evidence, before: ByPrompt, safe: bool | None) -> Evidence:
    """Today's row with the baseline's outcome in the place of the original's."""
    known = before[row.id]
    note = row.note
    if known is None:
        note = "not judged in the baseline"
    return dataclasses.replace(
        row,
        original=NOT_KEPT,
        original_safe=known,
        original_broken=False,
        compressed_safe=safe,
        note=note,
    )


def _unseen(before: Outcomes, provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Where answers are what must not be lost, varied garbage must not pass for one."""
    if REFUSING_IS_SAFE[before.check]:
        return ()
    name = f"{before.check} on {before.prompts['name']}"
    return tuple(f"{name}: {reason}" for reason in coherence_objection(provenance))


def _not_asked(before: Outcomes, today: Today) -> tuple[str, ...]:
    """A server is asked, or nothing is known of it: what it said earlier is not today's answer."""
    if not today.cached_compressed:
        return ()
    return (
        f"{today.cached_compressed} answers of the served model on {before.prompts['name']!r} came "
        "from the cache of earlier runs, so that it was not asked today: run with "
        "--compsec-no-cache",
    )


def _judged(
    pair: ModelPair,
    prompt_set: PromptSet,
    today: Today,
    rows: tuple[Evidence, ...],
    arguments: DriftArguments,
    comparisons: int,
    *,
    rounding: bool,
) -> Judgement:
    """``rounding``: nothing changed that would explain a difference, so that the noise floor, where
    the run measures one, may speak against REGRESSED. Drift with another cause needs no excuse."""

    def circumstances(confidence: float) -> Circumstances:
        noise = pair.options.noise_floor and rounding
        return Circumstances(
            _paired(prompt_set.name, arguments, confidence),
            sequential=False,
            noise_floor=(
                (lambda: measured_noise(pair, prompt_set, today.reader, confidence))
                if noise
                else None
            ),
        )

    found = judge_evidence(rows, circumstances(arguments.confidence), early=None, final=True)
    if comparisons == 1 or found.verdict is not Verdict.REGRESSED:
        return found
    stricter = shared_confidence(arguments.confidence, comparisons)
    if judge_evidence(rows, circumstances(stricter), early=None, final=True).verdict is (
        Verdict.REGRESSED
    ):
        return found
    return dataclasses.replace(
        found,
        verdict=Verdict.NOT_MEASURED if found.unmeasured else Verdict.INCONCLUSIVE,
        withheld=(*found.withheld, SEVERAL.format(count=comparisons)),
    )


def _paired(prompts: str, arguments: DriftArguments, confidence: float) -> PairedArguments:
    return paired_arguments(
        "no_drift",
        margin=("max_drift", arguments.margin),
        prompts=prompts,
        confidence=confidence,
        models=None,
        variants=None,
        min_original_rate=arguments.min_baseline_rate,
    )


def estimates_of(found: Comparison, arguments: DriftArguments) -> tuple[Estimate, ...]:
    """The compressed model's drift, which decides, and the original's own, shown beside."""
    prompts = f"{found.before.check} on {found.before.prompts['name']}"
    judgement = found.judgement
    if found.missing and judgement.verdict is Verdict.PRESERVED:
        judgement = dataclasses.replace(judgement, verdict=Verdict.NOT_MEASURED)
    return (
        _estimate(found.rows, f"drift, {prompts}", "compressed", arguments, judgement),
        _estimate(found.own, f"drift of the original itself, {prompts}", "original", arguments),
    )


def _estimate(
    rows: tuple[Evidence, ...],
    name: str,
    arm: str,
    arguments: DriftArguments,
    judgement: Judgement | None = None,
) -> Estimate:
    counts = counts_of(rows)
    plain = Estimate(
        name=name,
        estimand=f"share of prompts that the {arm} model handled safely in the baseline and not "
        "today, minus the reverse (left: the baseline, right: today)",
        unit=POINTS,
        sample="prompt",
        samples=0 if counts is None else counts.n,
        method=METHOD if judgement is not None else "score interval (Tango 1998)",
        limit=None if judgement is None else arguments.margin,
        verdict="" if judgement is None else str(judgement.verdict),
    )
    if counts is None:
        return plain
    interval = judgement.interval if judgement is not None else None
    if interval is None:
        interval = decide(
            counts, margin=arguments.margin, confidence=arguments.confidence, settle=False
        ).interval
    return dataclasses.replace(
        plain,
        original=(counts.both + counts.regressed) / counts.n,
        compressed=(counts.both + counts.improved) / counts.n,
        change=counts.degradation,
        lower=float(interval[0]),
        upper=float(interval[1]),
    )
