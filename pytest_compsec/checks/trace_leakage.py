"""``trace_leakage``: traces that were recorded with a probe do not tell one input from others.

Test Vector Leakage Assessment on the user's own recordings of the device that runs the compressed
model: fixed against random inputs, |t| > 4.5 at one point in two independent halves. Nothing is
measured here: what the traces are of, and how they were taken, is the user's word.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.arguments import (
    optional_data_name,
    require_confidence,
    require_data_name,
    require_names,
)
from pytest_compsec.checks.selection import SampledArguments
from pytest_compsec.errors import ConfigError
from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.config.pairs import PairName
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.side_channels.traces import Assessment, Traces
    from pytest_compsec.side_channels.traces_file import TraceFile

#: A larger share of points that never vary (a saturated probe) hides too much.
MOST_CONSTANT = 0.01
_NEXT = {
    Verdict.REGRESSED: (
        "Look at what the device computes at the points named above. Record again to be sure, with "
        "inputs in random order; then shield, or mask what depends on the input."
    ),
    Verdict.INCONCLUSIVE: (
        "Record more traces: a leak four times as small in power needs four times as many. Or "
        "decide on a larger max_effect."
    ),
    Verdict.NOT_MEASURED: "Record the traces again as the message above asks.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceArguments(SampledArguments):
    """Validated arguments of ``trace_leakage``; ``margin`` is ``max_effect``."""

    traces: str
    labels: str | None
    threshold: float

    @property
    def margin_name(self) -> str:
        return "max_effect"


def trace_leakage_arguments(
    *,
    traces: str,
    labels: str | None = None,
    threshold: float = 4.5,
    max_effect: float = 0.2,
    confidence: float = 0.95,
    models: str | Sequence[str] | None = None,
    variants: str | Sequence[str] | None = None,
) -> TraceArguments:
    """Validate the marker's arguments. Raises ValueError in plain words.

    ``traces`` names a data file of ``compsec.yaml`` (an .npz or .safetensors file with the arrays
    ``fixed`` and ``random``, a row a trace, or an .npy file whose 0 and 1 are in the data file
    ``labels``); ``{model}`` and ``{variant}`` in the name stand for those of the pair.
    ``threshold`` is the |t| of a leak; ``max_effect`` the smallest leak that PRESERVED must exclude
    at ``confidence``, in standard deviations of a class; ``models`` and ``variants`` choose pairs
    (None: all).
    """
    return TraceArguments(
        check="trace_leakage",
        margin=_between("max_effect", max_effect, 0.0, 10.0),
        traces=require_data_name("traces", traces),
        labels=optional_data_name("labels", labels),
        threshold=_between("threshold", threshold, 2.0, 100.0),
        confidence=require_confidence(confidence),
        models=require_names("models", models),
        variants=require_names("variants", variants),
    )


def check_trace_leakage(pair: ModelPair, *, test: str = "", **arguments: Any) -> CheckResult:
    """Test the traces of a pair and decide. ``arguments`` are those of the marker."""
    return measure_traces(pair, trace_leakage_arguments(**arguments), test=test)


def measure_traces(pair: ModelPair, arguments: TraceArguments, *, test: str = "") -> CheckResult:
    """As :func:`check_trace_leakage`, with arguments that are already validated.

    A leak is REGRESSED, whether the original has it too or not (it is shown beside). PRESERVED asks
    for more than none: traces enough to have shown one of ``max_effect``. Raises ConfigError for a
    file that holds no such traces, or one that cannot be of this pair.
    """
    from pytest_compsec.checks.estimates import estimates_result
    from pytest_compsec.checks.trace_report import (
        beside,
        original_estimate,
        trace_estimates,
        trace_notes,
    )
    from pytest_compsec.side_channels.traces import assess
    from pytest_compsec.side_channels.traces_file import read_traces

    _require_one_pair(pair, arguments)
    names = [one and _named(one, pair.name) for one in (arguments.traces, arguments.labels)]
    files = [pair.data(name) for name in names if name]
    try:
        pair.require_compressed()
        found = read_traces(files[0], files[1] if len(files) > 1 else None)
        missing = _missing(pair, found)
        assessed = assess(found.compressed, arguments.threshold, arguments.confidence)
        missing += _saturated(assessed, found.compressed)
        missing += _copied(found.compressed)
        estimates = trace_estimates(found.compressed, assessed, arguments)
        notes = trace_notes(found, assessed, arguments)
        if found.original is not None:
            before = assess(found.original, arguments.threshold, arguments.confidence)
            estimates.append(original_estimate(found.original, before))
            notes.append(beside(assessed, before))
    finally:
        pair.recheck()
    result = estimates_result(
        pair,
        arguments,
        test,
        estimates,
        missing=missing,
        # Another model's traces leak or not: they say nothing of this one.
        verdict=Verdict.NOT_MEASURED if _other_weights(pair, found) else None,
        notes=notes,
        provenance=pair.provenance_with(*files),
    )
    return dataclasses.replace(result, next_step=_NEXT.get(result.verdict, ""))


def _require_one_pair(pair: ModelPair, arguments: TraceArguments) -> None:
    """Traces of one device say nothing of another model: raise ConfigError when two pairs would be
    judged by the same ones."""
    own = _named(arguments.traces, pair.name)
    sharing = [
        name.id
        for name in pair.suite.pairs
        if arguments.selects(name.model, name.variant) and _named(arguments.traces, name) == own
    ]
    if len(sharing) > 1:
        raise ConfigError(
            f"{pair.config_name}: trace_leakage(traces={arguments.traces!r}) would judge "
            f"{', '.join(sharing)} by the same traces, which are of one model. Name the pair that "
            "was recorded with variants=... (and models=...), or put {variant} into the name of "
            "the data"
        )


def _named(name: str, pair: PairName) -> str:
    return name.replace("{model}", pair.model).replace("{variant}", pair.variant)


def _other_weights(pair: ModelPair, found: TraceFile) -> bool:
    digest = found.weights_digest
    return digest is not None and digest != pair.compressed_arm.weights_digest


def _missing(pair: ModelPair, found: TraceFile) -> list[str]:
    if not _other_weights(pair, found):
        return []
    return [
        f"the file says that its traces are of the weights {found.weights_digest}, and those of "
        f"{pair.id} are {pair.compressed_arm.weights_digest}"
    ]


def _saturated(assessed: Assessment, traces: Traces) -> list[str]:
    if assessed.constant <= MOST_CONSTANT * traces.points:
        return []
    return [
        f"{assessed.constant} of {traces.points} sample points never vary, so that no leak could "
        "show there: the probe was saturated, or not connected"
    ]


def _copied(traces: Traces) -> list[str]:
    from pytest_compsec.side_channels.traces import MOST_REPEATED, repeated

    count, total = repeated(traces), sum(traces.counts)
    if count <= MOST_REPEATED * total:
        return []
    return [
        f"{count} of {total} traces are copies of others, value for value, which no two recordings "
        "are: what they say is said by fewer traces, or by the same ones in both classes"
    ]


def _between(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name}={value!r} must be a number")
    if not (math.isfinite(value) and low < value <= high):
        raise ValueError(f"{name}={value!r} must be greater than {low:g} and at most {high:g}")
    return float(value)
