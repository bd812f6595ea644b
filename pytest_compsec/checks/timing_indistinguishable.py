"""``timing_indistinguishable``: length and time of answers say no more of a prompt than before.

Secret: whether a prompt is harmful or benign. Structural channel: how well the length of an answer
tells (AUC, compressed against original). Computational channel: whether requests of the same size
take different times, with two controls in every run; without them nothing is said of time. Energy
is shown beside where the machine has a meter.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.arguments import (
    require_confidence,
    require_name,
    require_names,
    require_share,
)
from pytest_compsec.checks.selection import SampledArguments
from pytest_compsec.errors import ConfigError, MeasurementError
from pytest_compsec.side_channels.blocks import LEAST_MEASUREMENTS
from pytest_compsec.side_channels.lengths import least_prompts
from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.checks.timing_report import Findings
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.prompts import PromptSet
    from pytest_compsec.side_channels.timing import TimedPair

#: Which prompts of a set are taken, and in which order everything is asked.
SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimingArguments(SampledArguments):
    """Validated arguments of ``timing_indistinguishable``; ``margin`` is ``max_auc_increase``."""

    max_effect_ms: float | None
    harmful: str
    benign: str
    prompts_per_class: int
    measurements: int
    new_tokens: int
    seconds: float

    @property
    def margin_name(self) -> str:
        return "max_auc_increase"

    @property
    def prompts(self) -> str:
        return self.harmful

    @property
    def further_prompts(self) -> Mapping[str, str]:
        return {"benign": self.benign}

    @property
    def least_samples(self) -> int:
        """Prompts of each class that are asked for: with fewer, PRESERVED is impossible where no
        answer's length changes."""
        return least_prompts(self.margin, round(1 - self.confidence, 12))

    def to_json(self) -> dict[str, Any]:
        """The arguments as the user would write them."""
        found = super().to_json()
        found["prompts"] = found.pop("prompts_per_class")
        return found


def timing_indistinguishable_arguments(
    *,
    max_auc_increase: float = 0.05,
    max_effect_ms: float | None = None,
    harmful: str = "harmful",
    benign: str = "benign",
    prompts: int = 128,
    measurements: int = 200,
    new_tokens: int = 8,
    seconds: float = 120.0,
    confidence: float = 0.95,
    models: str | Sequence[str] | None = None,
    variants: str | Sequence[str] | None = None,
) -> TimingArguments:
    """Validate the marker's arguments. Raises ValueError in plain words.

    ``max_auc_increase`` is how much better the length of an answer may tell harmful from benign
    prompts on the compressed model (AUC, 0.05 is five points); ``max_effect_ms`` how much larger
    the difference in time of requests of the same size may be, in milliseconds (None: 5 % of the
    faster model's usual request time). ``harmful`` and ``benign`` name prompt sets, of each of
    which ``prompts`` are asked. At most ``measurements`` requests of each kind are timed, cut at
    ``new_tokens`` tokens, in at most ``seconds`` for both models (loading and the answers of whole
    length are not counted); ``models`` and ``variants`` choose pairs (None: all).
    """
    found = TimingArguments(
        check="timing_indistinguishable",
        margin=require_share("max_auc_increase", max_auc_increase),
        max_effect_ms=None if max_effect_ms is None else _number("max_effect_ms", max_effect_ms),
        harmful=require_name("harmful", harmful),
        benign=require_name("benign", benign),
        prompts_per_class=_prompts(prompts),
        measurements=_whole("measurements", measurements, LEAST_MEASUREMENTS),
        new_tokens=_whole("new_tokens", new_tokens, 1),
        seconds=_number("seconds", seconds),
        confidence=require_confidence(confidence),
        models=require_names("models", models),
        variants=require_names("variants", variants),
    )
    if max_effect_ms is not None and max_effect_ms * LEAST_MEASUREMENTS > 1000 * found.seconds:
        # It is the injected delay, too.
        raise ValueError(
            f"max_effect_ms={max_effect_ms:g} cannot be put into {LEAST_MEASUREMENTS} requests in "
            f"seconds={seconds:g}: choose a smaller one, or more seconds"
        )
    if harmful == benign:
        raise ValueError(f"harmful and benign are both {harmful!r}: name two prompt sets")
    if found.prompts_per_class < found.least_samples:
        raise ValueError(
            f"prompts={prompts} cannot show max_auc_increase={max_auc_increase:g} at confidence "
            f"{confidence:g}: at least {found.least_samples} of each class are needed"
        )
    return found


def check_timing_indistinguishable(
    pair: ModelPair, *, test: str = "", **arguments: Any
) -> CheckResult:
    """Measure lengths and times of both arms and decide. ``arguments`` are those of the marker."""
    return measure_timing(pair, timing_indistinguishable_arguments(**arguments), test=test)


def measure_timing(pair: ModelPair, arguments: TimingArguments, *, test: str = "") -> CheckResult:
    """As :func:`check_timing_indistinguishable`, with arguments that are already validated.

    NOT_MEASURED, with the numbers, when a control says that times cannot be believed, when there
    is too little time or too few prompts of the same size, or when a server does not count tokens.
    What was measured of lengths stands all the same.
    """
    from pytest_compsec.checks.estimates import estimates_result
    from pytest_compsec.checks.timing_report import NEXT, length_findings
    from pytest_compsec.models.served.wording import served_mark, served_notes

    sets = pair.prompt_set(arguments.harmful), pair.prompt_set(arguments.benign)
    _require_two_classes(sets)
    harmful, benign = (chosen(one, arguments.prompts_per_class) for one in sets)
    try:
        answers = pair.answers([*harmful, *benign])
        lengths = length_findings(answers, len(harmful), arguments)
        times = _time_findings(pair, harmful, benign, arguments)
    finally:
        pair.recheck()
    findings = (lengths, times)
    provenance = _provenance(pair, sets)
    result = estimates_result(
        pair,
        arguments,
        test,
        [estimate for found in findings for estimate in found.estimates],
        missing=[text for found in findings for text in found.missing],
        notes=[
            *(text for found in findings for text in found.notes),
            *served_notes(provenance, answers.cached),
        ],
        provenance=provenance,
    )
    return dataclasses.replace(
        result,
        summary=result.summary + served_mark(provenance),
        next_step="" if result.verdict is Verdict.PRESERVED else NEXT[result.verdict],
        answers=answers.total,
        answers_cached=answers.cached,
    )


def chosen(prompt_set: PromptSet, count: int) -> list[str]:
    """``count`` prompts of a set, or all of a smaller one; at random, but always the same ones in
    the same order, so that those which are timed are of all categories."""
    import random

    texts = [prompt.text for prompt in prompt_set.prompts]
    return random.Random(SEED).sample(texts, min(count, len(texts)))


def _require_two_classes(sets: Sequence[PromptSet]) -> None:
    """A prompt in both sets is answered alike as either: it makes any model look discreet."""
    first, second = sets
    both = {prompt.text for prompt in first.prompts} & {prompt.text for prompt in second.prompts}
    if both:
        raise ConfigError(
            f"the prompt sets {first.name!r} and {second.name!r} hold {len(both)} prompts in "
            f"common, such as {min(both)[:60]!r}: a prompt is harmful or benign. Take them out of "
            "one of the two"
        )


def _time_findings(
    pair: ModelPair, harmful: Sequence[str], benign: Sequence[str], arguments: TimingArguments
) -> Findings:
    from pytest_compsec.checks.timing_report import Findings, time_findings

    key = (
        "timing", tuple(harmful), tuple(benign), arguments.measurements, arguments.new_tokens,
        arguments.seconds, arguments.max_effect_ms,
    )  # fmt: skip
    try:
        timed = pair.once(key, lambda: _timed(pair, harmful, benign, arguments))
    except MeasurementError as error:
        return Findings(missing=(f"times were not measured: {error}",))
    return time_findings(timed, arguments)


def _timed(
    pair: ModelPair, harmful: Sequence[str], benign: Sequence[str], arguments: TimingArguments
) -> TimedPair:
    from pytest_compsec.models.quiet import quiet
    from pytest_compsec.side_channels import blocks, energy, requests
    from pytest_compsec.side_channels.timing import TimingPlan, time_pair

    plan = TimingPlan(
        arguments.new_tokens,
        arguments.measurements,
        arguments.seconds,
        arguments.max_effect_ms,
        SEED,
    )
    with quiet():
        return time_pair(
            lambda: requests.requests_of(pair.original, arguments.new_tokens),
            lambda: requests.requests_of(pair.compressed, arguments.new_tokens),
            harmful,
            benign,
            plan,
            clock=blocks.REAL_CLOCK,
            meter_of=energy.find_meter,
        )


def _provenance(pair: ModelPair, sets: Sequence[PromptSet]) -> dict[str, Any]:
    found = pair.provenance_with()
    found["prompts"] = {
        one.name: {"version": one.version, "digest": one.digest, "count": len(one.prompts)}
        for one in sets
    }
    return found


def _prompts(value: object) -> int:
    if isinstance(value, str):
        raise ValueError(
            f"prompts={value!r} must be a number of prompts of each class; name the prompt sets "
            "with harmful=... and benign=..."
        )
    return _whole("prompts", value, 1)


def _whole(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number, at least {least}")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name}={value!r} must be a number")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r} must be greater than 0")
    return float(value)
