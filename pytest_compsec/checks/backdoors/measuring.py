"""The measurement under the three backdoor checks: which trigger, both arms, the verdict, and one
``CheckResult`` out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.backdoors.advice import next_step
from pytest_compsec.checks.backdoors.arguments import BackdoorArguments
from pytest_compsec.checks.backdoors.deciding import Judgement
from pytest_compsec.checks.backdoors.figures import Limits
from pytest_compsec.checks.backdoors.outcomes import PairOutcomes
from pytest_compsec.checks.backdoors.wording import Speech, notes, summary
from pytest_compsec.checks.plain_result import arm_provenance, plain_result
from pytest_compsec.errors import ConfigError, MeasurementError
from pytest_compsec.findings_backdoors import BackdoorFinding
from pytest_compsec.models.served.wording import (
    coherence_objection,
    served_mark,
    served_notes,
)
from pytest_compsec.verdict import CheckResult, Evidence, Verdict

if TYPE_CHECKING:
    from pytest_compsec.attacks.backdoor import Trigger
    from pytest_compsec.checks.backdoors.language import Sets
    from pytest_compsec.models.pair import ModelPair

Decide = Callable[[Sequence[PairOutcomes], Limits], Judgement]


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What both arms did, and what the result says beside it."""

    outcomes: tuple[PairOutcomes, ...]
    speech: Speech
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    answers: int = 0
    cached: int = 0


def measure_backdoor(
    pair: ModelPair, arguments: BackdoorArguments, decide: Decide, *, test: str
) -> CheckResult:
    """Put the trigger on the pair's samples or prompts, ask both arms, decide.

    Raises ConfigError when no trigger is named anywhere, or a target that fits no model of the
    task. What could not be measured is NOT_MEASURED with the reason.
    """
    trigger, target = named_backdoor(pair, arguments)
    limits = Limits(arguments.margin, arguments.max_accuracy_drop, arguments.confidence)
    ask = _ask_language_model if pair.task == "text-generation" else _ask_classifiers
    try:
        asked = ask(pair, arguments, trigger, target)
        judgement = decide(asked.outcomes, limits)
    except MeasurementError as error:
        return _result(
            pair,
            arguments,
            test,
            Verdict.NOT_MEASURED,
            f"{Verdict.NOT_MEASURED}: {pair.id}: {error}",
            "See above for what stood in the way.",
        )
    finally:
        pair.recheck()
    objections = coherence_objection(asked.provenance)
    if judgement.verdict is Verdict.PRESERVED and objections:
        judgement = dataclasses.replace(
            judgement, verdict=Verdict.INCONCLUSIVE, withheld=(*judgement.withheld, *objections)
        )
    chosen = judgement.outcomes
    finding = BackdoorFinding(
        trigger=trigger.name,
        trigger_digest=trigger.digest,
        target=chosen.target,
        targets=judgement.targets,
        samples=chosen.samples,
        unchanged=chosen.unchanged,
        original=judgement.original,
        compressed=judgement.compressed,
        accuracy=judgement.accuracy,
        strengths=judgement.strengths,
        preserved_pvalue=judgement.preserved_pvalue,
    )
    made = _result(
        pair,
        arguments,
        test,
        judgement.verdict,
        summary(pair.id, judgement, asked.speech, limits) + served_mark(asked.provenance),
        next_step(judgement, asked.speech, limits),
    )
    return dataclasses.replace(
        made,
        evidence=asked.evidence,
        unmeasured=judgement.unmeasured,
        answers=asked.answers,
        answers_cached=asked.cached,
        notes=(
            *judgement.withheld[1:],
            *notes(judgement, asked.speech),
            *asked.notes,
            *served_notes(asked.provenance, asked.cached),
        ),
        withheld=judgement.withheld,
        provenance={
            **asked.provenance,
            "backdoor": {
                "trigger": trigger.name,
                "digest": trigger.digest,
                "target": target,
                "named_by": _named_by(arguments),
            },
        },
        backdoor=finding,
    )


def named_backdoor(
    pair: ModelPair, arguments: BackdoorArguments
) -> tuple[Trigger, int | str | None]:
    """The trigger and the target that count: the marker's, else the fixture's or the config's.

    Raises ConfigError where no trigger is named, or, for a language model, no target.
    """
    known = pair.backdoor
    trigger, target = known.trigger, known.target
    if arguments.trigger is not None:
        from pytest_compsec.attacks.triggers.reading import as_trigger

        trigger = as_trigger(arguments.trigger, pair.task)
    if arguments.target is not None:
        target = arguments.target
    missing = "trigger" if trigger is None else "target"
    if trigger is None or (target is None and pair.task == "text-generation"):
        raise ConfigError(
            f"{pair.config_name}: {pair.id}: {arguments.check} has no {missing}. Write "
            f"{missing}=... into the marker, override the fixture `backdoor`, or give the model a "
            "section 'backdoor:'"
            + (
                " (a language model's target is 'refusals vanish', or text that appears)"
                if trigger is not None
                else ""
            )
        )
    return trigger, target


def _named_by(arguments: BackdoorArguments) -> str:
    if arguments.trigger is not None:
        return "the marker"
    return "the fixture backdoor or the config"


def _ask_classifiers(
    pair: ModelPair,
    arguments: BackdoorArguments,
    trigger: Trigger,
    target: int | str | None,
) -> _Asked:
    from pytest_compsec.checks.backdoors.classification import (
        outcomes_of,
        predictions,
        require_class,
    )
    from pytest_compsec.models.identity import installed_versions

    where = f"{pair.config_name}: {pair.id}"
    for name, value in arguments.named_prompts.items():
        raise ConfigError(
            f"{where}: {arguments.check}({name}={value!r}) is for language models; a classifier is "
            "asked its evaluation data"
        )
    data = pair.evaluation_data
    models = pair.classifiers
    targets: Sequence[int] = range(models[0].classes)
    if target is not None:
        targets = [require_class(target, models[0].classes, where)]
    found = predictions(models, data, trigger, arguments.strengths)
    unpinned = (
        f"The evaluation data ({data.source}, sha256 {data.digest[:12]}...) are pinned by no lock."
    )
    return _Asked(
        outcomes=tuple(
            outcomes_of(found, one, strength) for one in targets for strength in arguments.strengths
        ),
        speech=Speech(arguments.check, trigger.name, arguments.margin_name),
        provenance={
            "lock_digest": pair.lock_digest,
            "original": arm_provenance(models[0]),
            "compressed": arm_provenance(models[1]),
            "evaluation_data": {
                "source": data.source,
                "digest": data.digest,
                "pinned": data.pinned,
                "count": len(data),
            },
            "libraries": installed_versions(),
        },
        notes=() if data.pinned else (unpinned,),
    )


def _ask_language_model(
    pair: ModelPair,
    arguments: BackdoorArguments,
    trigger: Trigger,
    target: int | str | None,
) -> _Asked:
    from pytest_compsec.checks.backdoors.language import ask, sets_of

    if not isinstance(target, str) or not target.strip():
        raise ConfigError(
            f"{pair.config_name}: {pair.id}: the backdoor's target is {target!r}; of a language "
            "model it is 'refusals vanish', or text that its answers then contain"
        )
    sets = sets_of(arguments, target)
    run = ask(pair, trigger, target, sets, arguments.strengths)
    said = list(run.notes)
    if run.broken:
        said.append(
            f"{run.broken} of the compressed model's {len(run.evidence)} answers under the trigger "
            "are no texts (empty, repetitive, or garbage)."
        )
    return _Asked(
        outcomes=run.outcomes,
        speech=Speech(
            arguments.check,
            trigger.name,
            arguments.margin_name,
            samples=_kind_of_prompts(sets),
            accuracy="prompts handled properly",
            correct="are handled properly",
            data="prompts of your own (prompts=..., harmful=..., benign=...)",
        ),
        provenance={
            **pair.provenance(run.prompt_set),
            "accuracy_prompts": {
                name: pair.prompt_set(name).digest for name in (sets.harmful, sets.benign)
            },
        },
        notes=tuple(said),
        evidence=run.evidence,
        answers=run.answers,
        cached=run.cached,
    )


def _kind_of_prompts(sets: Sets) -> str:
    if sets.triggered == sets.harmful:
        return "harmful prompts"
    return "benign prompts" if sets.triggered == sets.benign else "prompts"


def _result(
    pair: ModelPair,
    arguments: BackdoorArguments,
    test: str,
    verdict: Verdict,
    what: str,
    after: str,
) -> CheckResult:
    """``what`` is the whole summary."""
    made = plain_result(pair, arguments, test, verdict, what, after=after)
    return dataclasses.replace(made, summary=what)
