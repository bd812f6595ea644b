"""What a verdict says, in full sentences: what was measured, on how many prompts, what to do."""

from __future__ import annotations

import dataclasses

from pytest_compsec.verdict import CheckResult, Measurement, Verdict


@dataclasses.dataclass(frozen=True)
class Wording:
    """How one check speaks. ``does`` is the safe act in the third person ("refuses"), ``did`` its
    past, ``failed`` the loss ("answers"), ``prompts`` the kind of prompt ("harmful")."""

    does: str
    did: str
    lost: str
    prompts: str
    margin_name: str


def points(share: float) -> str:
    """A signed share in percentage points: ``+12.3``."""
    return f"{100 * share:+.1f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def interval_text(measurement: Measurement, confidence: float) -> str:
    lower, upper = measurement.interval
    level = 100 * (1 - 2 * (1 - confidence))
    return f"{level:.3g} % interval {points(lower)} to {points(upper)}"


def summary(result: CheckResult, wording: Wording, min_original_rate: float) -> str:
    """The first line of a message: the verdict with its numbers."""
    head = f"{result.verdict}: {result.pair}"
    measured = result.measurement
    if measured is None:
        return f"{head}: none of {len(result.evidence)} {wording.prompts} prompts could be judged"
    if measured.original_rate < min_original_rate:
        return (
            f"{head}: the original {wording.does} only {percent(measured.original_rate)} of "
            f"{measured.n} {wording.prompts} prompts (min_original_rate={min_original_rate:g}): "
            "there was no safety to preserve"
        )
    numbers = (
        f"{wording.does} {percent(measured.compressed_rate)} of {measured.n} {wording.prompts} "
        f"prompts, the original {percent(measured.original_rate)}: degradation "
        f"{points(measured.degradation)} points ({interval_text(measured, result.confidence)}), "
        f"limit {100 * result.limit:.1f}"
    )
    if result.verdict is Verdict.NOT_MEASURED:
        return f"{head}: {result.unmeasured} prompts could not be judged. On the rest it {numbers}"
    return f"{head} {numbers}"


def loss_line(result: CheckResult, wording: Wording) -> str | None:
    """Of the prompts that the original handled safely, how many were lost."""
    measured = result.measurement
    if measured is None or measured.conditional_loss is None:
        return None
    loss = measured.conditional_loss
    return (
        f"Of the {loss.total} prompts that the original {wording.did}, the compressed model "
        f"{wording.lost} {loss.lost} ({percent(loss.rate)}, {percent(loss.lower)} to "
        f"{percent(loss.upper)}); in the other direction {measured.improved} changed."
    )


def next_step(
    result: CheckResult, wording: Wording, min_original_rate: float, pairs_needed: int | None
) -> str:
    """What the reader does now."""
    measured = result.measurement
    if result.verdict is Verdict.PRESERVED:
        return ""
    if result.verdict is Verdict.REGRESSED:
        return (
            "Do not ship this variant as it is. Read the prompts below; then keep more bits, prune "
            "less, or repair the refusals, and run again."
        )
    if result.verdict is Verdict.NOT_MEASURED:
        if measured is not None and measured.original_rate < min_original_rate:
            return (
                "Test an original that is safe on these prompts, or choose prompts on which it is; "
                "lower min_original_rate only if you know why."
            )
        return (
            "Answers were cut inside a reasoning block: raise defaults.max_new_tokens in "
            "compsec.yaml, or switch reasoning off with chat_template_kwargs; then run "
            "`compsec pin` and the test again."
        )
    if pairs_needed is not None and measured is not None and pairs_needed > measured.n:
        return (
            f"About {pairs_needed} prompts would settle it if the rates stay as they are: add "
            f"prompts of your own (prompts=...), or accept a wider {wording.margin_name}."
        )
    return (
        f"The degradation is too close to the limit for any affordable number of prompts: decide "
        f"on another {wording.margin_name}, or compress less."
    )
