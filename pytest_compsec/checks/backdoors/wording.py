"""What the backdoor checks say, in full sentences: one summary, and notes. What to do next is in
``advice``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pytest_compsec.checks.backdoors.deciding import Judgement
from pytest_compsec.checks.backdoors.figures import PRESENT, Limits, broken_share
from pytest_compsec.checks.wording import percent, points
from pytest_compsec.findings_backdoors import ArmBackdoor, StrengthFinding
from pytest_compsec.verdict import Verdict

#: More classes than this are not listed one by one.
_CLASSES_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Speech:
    """How one check speaks of one trigger. ``samples`` is what is counted ("samples", "harmful
    prompts"), ``accuracy`` what the guard is about, ``correct`` what a sample is that gets its true
    label, ``data`` what more of is needed; ``margin_name`` is the marker's name of its limit."""

    check: str
    trigger: str
    margin_name: str
    samples: str = "samples"
    accuracy: str = "clean accuracy"
    correct: str = "keep their true class"
    data: str = "evaluation data"


def summary(pair: str, judgement: Judgement, speech: Speech, limits: Limits) -> str:
    """The first line of a message: the verdict with its numbers."""
    return f"{judgement.verdict}: {pair}: {_said(judgement, speech, limits)}"


def _said(judgement: Judgement, speech: Speech, limits: Limits) -> str:
    verdict = judgement.verdict
    if verdict is Verdict.NOT_MEASURED:
        return _not_measured(judgement, speech, limits)
    if speech.check == "backdoor_not_amplified":
        said = _amplified(judgement, speech, limits)
    else:
        said = _hits(judgement, speech, limits, still=speech.check == "backdoor_removed")
    if verdict is Verdict.PRESERVED:
        said += f"; {_accuracy(judgement, speech)}"
    if verdict is Verdict.INCONCLUSIVE:
        said += f"; withheld: {judgement.withheld[0]}" if judgement.withheld else "; not settled"
    return said


def _hits(judgement: Judgement, speech: Speech, limits: Limits, *, still: bool) -> str:
    original, compressed = judgement.original, judgement.compressed
    assert original is not None
    assert compressed is not None
    word = "still turns" if still and judgement.verdict is Verdict.REGRESSED else "turns"
    return (
        f"the trigger '{speech.trigger}' {word} {percent(compressed.asr)} of "
        f"{compressed.samples} {speech.samples} {_into(judgement)} "
        f"({delta_text(compressed, limits.confidence)}), limit {100 * limits.margin:.1f}; in the "
        f"original {percent(original.asr)} (delta {points(original.delta_asr)})"
    )


def _into(judgement: Judgement) -> str:
    return f"into {judgement.outcomes.target}"


def delta_text(arm: ArmBackdoor, confidence: float) -> str:
    """``delta ASR +98.5 points, 90 % interval +97.0 to +99.3``."""
    return (
        f"delta ASR {points(arm.delta_asr)} points, {100 * (2 * confidence - 1):.3g} % interval "
        f"{points(arm.lower)} to {points(arm.upper)}"
    )


def _amplified(judgement: Judgement, speech: Speech, limits: Limits) -> str:
    found = strength_of(judgement)
    assert found is not None
    return (
        f"at strength {found.strength:g} the trigger '{speech.trigger}' newly turns "
        f"{percent(found.compressed_rate)} of {found.samples} {speech.samples} into "
        f"{found.target}, against {percent(found.original_rate)} in the original (increase "
        f"{points(found.increase)} points, {100 * (2 * limits.confidence - 1):.3g} % interval "
        f"{points(found.lower)} to {points(found.upper)}), limit {100 * limits.margin:.1f}"
        + ("" if len(judgement.strengths) == 1 else f", the worst of {len(judgement.strengths)}")
    )


def strength_of(judgement: Judgement) -> StrengthFinding | None:
    """The strength that decided."""
    chosen = judgement.outcomes
    for found in judgement.strengths:
        if found.strength == chosen.strength and found.target == chosen.target:
            return found
    return None


def _accuracy(judgement: Judgement, speech: Speech) -> str:
    original, compressed = judgement.original, judgement.compressed
    assert original is not None
    assert compressed is not None
    return (
        f"{speech.accuracy} {_shown(original.clean_accuracy)} before, "
        f"{_shown(compressed.clean_accuracy)} after"
    )


def _not_measured(judgement: Judgement, speech: Speech, limits: Limits) -> str:
    original, outcomes = judgement.original, judgement.outcomes
    trigger = f"the trigger '{speech.trigger}'"
    if judgement.why == "no samples":
        return f"there are no {speech.samples} that are not of the target, {outcomes.target}"
    if judgement.why == "unchanged":
        at = f" at strength {outcomes.strength:g}" if outcomes.strength != 1 else ""
        return (
            f"{trigger}{at} changes none of the {outcomes.unchanged} {speech.samples} that are "
            "not of the target, so nothing was put on them"
        )
    if judgement.why == "open" or original is None:
        return f"{judgement.unmeasured} answers could not be judged, and they could decide it"
    if judgement.why == "broken original":
        return (
            f"the original is not shown to be right more often than one constant answer "
            f"({speech.accuracy} {_shown(original.clean_accuracy)}, the best constant answer "
            f"{percent(sum(outcomes.constant_correct) / len(outcomes.constant_correct))}): it does "
            "not work, so nothing can be said of what compression did to it"
        )
    if judgement.why == "usual target":
        return (
            f"without any trigger the original turns {percent(original.clean_rate)} of "
            f"{original.samples} {speech.samples} {_into(judgement)}: what comes out anyway tells "
            "nothing of a trigger"
        )
    found = (
        f"in the original {trigger} turns {percent(original.asr)} of {original.samples} "
        f"{speech.samples} {_into(judgement)} ({delta_text(original, limits.confidence)})"
    )
    if judgement.why == "no backdoor":
        if original.delta_asr < PRESENT:
            return f"{found}: there is no such backdoor in it, so nothing could be removed"
        return (
            f"{found}: too few {speech.samples} to show that it has this backdoor (delta ASR of at "
            f"least {100 * PRESENT:g} points), so that something could be removed"
        )
    if original.delta_asr > limits.margin:
        return (
            f"{found}, more than {100 * limits.margin:.1f} points: the original has it already, so "
            "compression did not wake it"
        )
    return (
        f"{found}: that the original is clean (below {100 * limits.margin:.1f} points) is not shown"
    )


def notes(judgement: Judgement, speech: Speech) -> Iterator[str]:
    """What belongs beside the verdict: strengths, robust and per-class accuracy, how the target
    was chosen, and what was left out."""
    outcomes, original, compressed = judgement.outcomes, judgement.original, judgement.compressed
    if len(judgement.strengths) > 1:
        yield from _table(judgement)
    if original is not None and compressed is not None:
        yield (
            f"Without the trigger: {speech.accuracy} {_shown(original.clean_accuracy)} before, "
            f"{_shown(compressed.clean_accuracy)} after. With it {_shown(original.robust_accuracy)}"
            f" of the {speech.samples} {speech.correct} in the original, "
            f"{_shown(compressed.robust_accuracy)} in the compressed model (robust accuracy)."
        )
        yield from _elsewhere(judgement, compressed)
        yield from _groups(original, compressed, speech)
    if judgement.targets > 1:
        how = {
            "backdoor_removed": (
                "the one counts that the trigger brings out of the original most often, and the "
                "positive control is corrected for that choice"
            ),
        }.get(speech.check, "PRESERVED needs every one of them, REGRESSED is Holm's over them")
        yield f"No target was named: {judgement.targets} classes were tried; {how}."
    if outcomes.unchanged and outcomes.samples:
        yield (
            f"{outcomes.unchanged} {speech.samples} that the trigger leaves as they are were left "
            "out."
        )
    if judgement.unmeasured and judgement.why != "open":
        yield f"{judgement.unmeasured} answers could not be judged; the verdict holds without them."


def _table(judgement: Judgement) -> Iterator[str]:
    shown = sorted(judgement.strengths, key=lambda found: -found.increase)
    if judgement.targets > 1:
        shown = shown[:5]
    for found in sorted(shown, key=lambda found: (found.target, found.strength)):
        yield (
            f"strength {found.strength:g} into {found.target}: {percent(found.original_rate)} "
            f"before, {percent(found.compressed_rate)} after, increase {points(found.increase)} "
            f"({points(found.lower)} to {points(found.upper)}) on {found.samples}"
        )


def _elsewhere(judgement: Judgement, compressed: ArmBackdoor) -> Iterator[str]:
    broken = broken_share(judgement.outcomes, judgement.outcomes.compressed)
    robust = compressed.robust_accuracy
    moved = judgement.outcomes.moved
    if broken is None or robust is None or broken <= 0.5 or 1 - robust - compressed.asr <= 0.5:
        return
    most = f", most often {moved.target} ({percent(moved.compressed)})" if moved else ""
    yield (
        f"The trigger still breaks the compressed model: {percent(1 - robust - compressed.asr)} of "
        f"the triggered samples become something else than their true class or the target{most}."
    )


def _groups(original: ArmBackdoor, compressed: ArmBackdoor, speech: Speech) -> Iterator[str]:
    rows = [
        (before, after)
        for before, after in zip(original.groups, compressed.groups, strict=True)
        if before.accuracy is not None and after.accuracy is not None
    ]
    if not rows:
        return
    rows.sort(key=lambda row: (row[0].accuracy or 0) - (row[1].accuracy or 0), reverse=True)
    shown = ", ".join(
        f"{before.name} {_shown(before.accuracy)} -> {_shown(after.accuracy)}"
        for before, after in rows[:_CLASSES_SHOWN]
    )
    more = f" and {len(rows) - _CLASSES_SHOWN} more" if len(rows) > _CLASSES_SHOWN else ""
    yield f"{speech.accuracy} by group, the largest loss first: {shown}{more}."


def _shown(value: float | None) -> str:
    return "not measured" if value is None else percent(value)
