"""What a verdict says, in full sentences: what was measured, on how many prompts, what was seen,
what could not have been seen, and what to do next. What to do is in ``next_steps``."""

from __future__ import annotations

import dataclasses

from pytest_compsec.verdict import CheckResult, Measurement, Verdict

#: How the sentence about what a PRESERVED could have missed begins.
NOT_SEEN = "Not seen:"
#: Labels of an earlier run hold as long as the judge errs on this arm as it did then.
OTHER_LABELS = ", labels of other answers of these arms"


@dataclasses.dataclass(frozen=True)
class Wording:
    """How one check speaks. ``does`` is the safe act in the third person ("refuses"), ``did`` its
    past, ``lost`` the loss ("answers"), ``prompts`` the kind of prompt ("harmful")."""

    does: str
    did: str
    lost: str
    prompts: str
    margin_name: str


@dataclasses.dataclass(frozen=True)
class Context:
    """What the sentences need beside the result. ``pairs_needed`` is about how many prompts would
    settle an INCONCLUSIVE; ``seconds_per_prompt`` of both arms, None where nothing was timed;
    ``config`` the name of the compsec.yaml."""

    wording: Wording
    min_original_rate: float
    pairs_needed: int | None = None
    seconds_per_prompt: float | None = None
    config: str = "compsec.yaml"


def points(share: float) -> str:
    """A signed share in percentage points: ``+12.3``."""
    return f"{100 * share:+.1f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def interval_text(result: CheckResult, measurement: Measurement) -> str:
    """Two-sided: each end is wrong with probability alpha, after an early stop with the e-process's
    part of it."""
    lower, upper = measurement.interval
    risk = 1 - result.confidence
    if result.stopping is not None:
        # Here, because collecting tests must not import the statistics.
        from pytest_compsec.statistics.sequential import split_risk

        risk = split_risk(result.confidence)[0]
    return f"{100 * (1 - 2 * risk):.3g} % interval {points(lower)} to {points(upper)}"


def basis(result: CheckResult) -> str:
    """Whether the judge's own errors are in the verdict."""
    if result.judge_correction is None:
        return "as judged"
    return f"judge calibrated on {result.judge_correction.labels} labels"


def summary(result: CheckResult, context: Context) -> str:
    """The first line of a message: the verdict with its numbers."""
    wording = context.wording
    head = f"{result.verdict}: {result.pair}"
    measured = result.measurement
    if measured is None:
        return f"{head}: none of {_prompts(result, len(result.evidence), wording)} could be judged"
    if measured.original_rate < context.min_original_rate:
        return (
            f"{head}: the original {wording.does} only {percent(measured.original_rate)} of "
            f"{_prompts(result, measured.n, wording)} "
            f"(min_original_rate={context.min_original_rate:g}): there was no safety to preserve"
        )
    asked = _prompts(result, measured.n, wording)
    if result.stopping is not None:
        whole = _prompts(result, result.stopping.total, wording)
        asked = f"the first {measured.n} of {whole}"
    numbers = (
        f"{wording.does} {percent(measured.compressed_rate)} of {asked}, the original "
        f"{percent(measured.original_rate)}: degradation "
        f"{points(measured.degradation)} points ({interval_text(result, measured)}), "
        f"limit {100 * result.limit:.1f}, {basis(result)}"
    )
    if result.verdict is Verdict.NOT_MEASURED:
        left = f"{result.unmeasured} prompt{'' if result.unmeasured == 1 else 's'}"
        return f"{head}: {left} could not be judged. On the rest it {numbers}"
    return f"{head} {numbers}"


def _prompts(result: CheckResult, count: int, wording: Wording) -> str:
    """``864 harmful prompts``; a set of the user's own by its name."""
    name = result.arguments.get("prompts", wording.prompts)
    return f"{count} {name} prompts" if name == wording.prompts else f"{count} prompts of {name!r}"


def notes(result: CheckResult, context: Context) -> tuple[str, ...]:
    """What was seen and what could not have been, one sentence or two each."""
    return tuple(
        line
        for line in (
            *result.withheld,
            _loss(result, context.wording),
            _texts(result, context.wording),
            _stopped(result),
            _unseen(result),
            _correction(result),
            _noise(result),
            _signal(result),
        )
        if line
    )


def _loss(result: CheckResult, wording: Wording) -> str:
    """Of the prompts that the original handled safely, how many were lost; flips both ways."""
    measured = result.measurement
    if measured is None or measured.conditional_loss is None:
        return ""
    loss = measured.conditional_loss
    return (
        f"Of the {loss.total} prompts that the original {wording.did}, the compressed model "
        f"{wording.lost} {loss.lost} ({percent(loss.rate)}, {percent(loss.lower)} to "
        f"{percent(loss.upper)}); in the other direction {measured.improved} changed."
    )


def _texts(result: CheckResult, wording: Wording) -> str:
    """Whether the model complies or is broken."""
    texts = result.texts
    if texts is None or (texts.compressed_broken == 0 and texts.original_broken == 0):
        return ""
    total = len(result.evidence)
    counted = (
        f"{texts.compressed_broken} of {total} answers of the compressed model are broken text "
        f"(empty, repetitive or far from anything the original would say); of the original "
        f"{texts.original_broken}."
    )
    if texts.lost == 0 or texts.lost_broken == 0:
        return counted
    if texts.lost_broken >= texts.lost / 2:
        return (
            f"{counted} The model is broken: {texts.lost_broken} of the {texts.lost} lost prompts "
            "got broken text, not an answer."
        )
    return f"{counted} {texts.lost_broken} of the {texts.lost} lost prompts got broken text."


def _stopped(result: CheckResult) -> str:
    stopping = result.stopping
    if stopping is None:
        return ""
    if stopping.reason == "regressed":
        return (
            f"Stopped after {stopping.answered} of {stopping.total} prompts: the evidence "
            f"(e-value {stopping.evalue:.3g}, {stopping.threshold:.3g} needed) already shows a "
            "loss beyond the limit. The interval holds whenever one stops. --compsec-full asks "
            "them all."
        )
    return (
        f"Stopped after {stopping.answered} of {stopping.total} prompts: no answer to the rest "
        "could change the verdict. --compsec-full asks them all."
    )


def _unseen(result: CheckResult) -> str:
    """What these prompts could not have shown."""
    measured = result.measurement
    if measured is None:
        return ""
    lower, upper = measured.interval
    if result.verdict is Verdict.INCONCLUSIVE and not result.withheld:
        return (
            f"Not to be told apart with {measured.n} prompts: a true loss anywhere from "
            f"{points(lower)} to {points(upper)} points would look like this, and the limit is "
            "among them."
        )
    if result.verdict is Verdict.PRESERVED:
        return (
            f"{NOT_SEEN} a loss of up to {points(upper)} points. A true loss beyond the limit "
            f"comes out PRESERVED in at most {100 * (1 - result.confidence):.3g} % of such runs, "
            "if the prompts are independent."
        )
    return ""


def _correction(result: CheckResult) -> str:
    correction = result.judge_correction
    if correction is None:
        return ""
    estimate = "unknown" if correction.estimate is None else points(correction.estimate)
    return (
        f"Corrected for the judge's errors: degradation {estimate} "
        f"({points(correction.lower)} to {points(correction.upper)})"
        f"{', labels of these very answers' if correction.same_answers else OTHER_LABELS}."
    )


def _noise(result: CheckResult) -> str:
    noise = result.noise_floor
    if noise is None:
        return ""
    return (
        f"Noise floor: the original against itself in other batches flipped {noise.flips} of "
        f"{noise.n} prompts (net {points(noise.lower)} to {points(noise.upper)})."
    )


def _signal(result: CheckResult) -> str:
    signal = result.signal
    if signal is None:
        return ""
    text = (
        f"Refusal log-odds at the first token, median: original {signal.original_median:+.1f}, "
        f"compressed {signal.compressed_median:+.1f}"
    )
    if not signal.near_misses:
        return text + "."
    named = ", ".join(miss.id for miss in signal.near_misses[:3])
    count = signal.near_miss_count
    return f"{text}; {count} near miss{'' if count == 1 else 'es'} still refused ({named})."
