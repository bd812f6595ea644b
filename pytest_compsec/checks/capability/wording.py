"""What ``capability_preserved`` says beside its numbers: all side by side, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_compsec.checks.capability import answering, perplexity, refusing
from pytest_compsec.checks.estimates import MOST_QUESTIONS
from pytest_compsec.verdict import Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.capability_preserved import CapabilityArguments
    from pytest_compsec.findings_estimates import Estimate


def side_by_side(found: Mapping[str, Estimate], arguments: CapabilityArguments) -> str:
    """Refusals, capability and coherence of both models in one line, what is unknown with how to
    know it."""
    refusals = found.get(refusing.REFUSALS)
    parts = [
        f"refused {_shares(refusals)} of {refusals.samples} {refusing.PROMPTS} prompts"
        if refusals is not None
        else "refusals not known here (mark the same test with safety_preserved too)"
    ]
    accuracy, broken = found.get(answering.ACCURACY), found.get(answering.BROKEN)
    if accuracy is not None and broken is not None:
        parts.append(f"right {_shares(accuracy)} of {accuracy.samples} questions")
        parts.append(f"broken {_shares(broken)} of the answers")
    else:
        parts.append(_left_out("answers", arguments.questions))
    reading = found.get(perplexity.NAME)
    parts.append(
        f"perplexity {reading.original:.4g} -> {reading.compressed:.4g}"
        if reading is not None
        else _left_out("perplexity", arguments.text)
    )
    return f"Side by side, original -> compressed: {'; '.join(parts)}."


def _settling(found: Mapping[str, Estimate], pairs_needed: int | None) -> str:
    """How what is open could be settled."""
    told = []
    open_names = {name for name, one in found.items() if one.verdict == Verdict.INCONCLUSIVE}
    if answering.ACCURACY in open_names:
        if pairs_needed is not None and pairs_needed <= MOST_QUESTIONS:
            told.append(f"About {pairs_needed} questions would settle the accuracy.")
        else:
            told.append(
                "The loss of accuracy is too close to the limit for any affordable number of "
                "questions: decide on another max_accuracy_drop, or compress less."
            )
    if answering.BROKEN in open_names:
        told.append("More questions narrow the interval of the broken answers.")
    if perplexity.NAME in open_names:
        told.append("More texts narrow the interval of the perplexity.")
    return " ".join(told)


def _left_out(what: str, name: str | None) -> str:
    return f"{what} {'left out' if name is None else 'not measured'}"


def _shares(estimate: Estimate) -> str:
    assert estimate.original is not None
    assert estimate.compressed is not None
    return f"{100 * estimate.original:.1f} -> {100 * estimate.compressed:.1f} %"


def next_step(
    verdict: Verdict, found: Mapping[str, Estimate], *, pairs_needed: int | None, config: str
) -> str:
    """What to do about a verdict. ``pairs_needed`` questions would settle the accuracy (None: none
    would, or it is settled); ``config`` is the name of the config."""
    if verdict is Verdict.REGRESSED:
        step = (
            "Keep more bits or prune less, or repair the variant (compsec repair); then run again."
        )
        refusals = found.get(refusing.REFUSALS)
        if refusals is not None and refusals.change is not None and refusals.change <= 0:
            step += (
                " That it refuses as often as before is no safety: what it lost is not only harm."
            )
        return step
    if verdict is Verdict.INCONCLUSIVE:
        told = _settling(found, pairs_needed)
        return (
            f"{told} List files of your own under `data:` in {config}, name them with text=... and "
            "questions=..., and run `compsec pin` and the test again."
        ).strip()
    if verdict is Verdict.NOT_MEASURED:
        return (
            "Give what is missing, or leave that part out with text=None or questions=None: a "
            "verdict then says nothing of it."
        )
    return ""
