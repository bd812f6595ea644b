"""``layers_within``: no weight of the compressed model is far from the original's.

Measured, not estimated: the relative error ``||W - W'|| / ||W||`` (Frobenius norm, W' dequantized)
of every linear layer, and of every other weight tensor, against one limit. There are no samples and
so no confidence. It bounds the weights and not the behaviour: no weight error predicts what becomes
of refusals, which is what ``safety_preserved`` is for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.arguments import require_name, require_names, require_share
from pytest_compsec.checks.plain_result import arm_provenance, plain_result
from pytest_compsec.checks.selection import ExactArguments
from pytest_compsec.errors import MeasurementError
from pytest_compsec.verdict import CheckResult, Verdict

if TYPE_CHECKING:
    from pytest_compsec.findings import LayerErrors
    from pytest_compsec.localization.weight_error import WeightError
    from pytest_compsec.models.loaded import LoadedModel
    from pytest_compsec.models.pair import ModelPair

#: Prompts on which the worst layers' outputs are compared.
ACTIVATION_PROMPTS = 16
NOT_BEHAVIOUR = (
    "This is about weights: no weight error says what becomes of refusals. Test those with "
    "safety_preserved."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayersArguments(ExactArguments):
    """Validated arguments of ``layers_within``; ``margin`` is ``max_relative_error``."""

    top_k: int = 10
    prompts: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The arguments as the user would write them."""
        found = {
            "max_relative_error": self.margin,
            "top_k": self.top_k,
            "models": list(self.models) if self.models else None,
            "variants": list(self.variants) if self.variants else None,
        }
        return found if self.prompts is None else {**found, "prompts": self.prompts}


def layers_within_arguments(
    *,
    max_relative_error: float = 0.1,
    top_k: int = 10,
    prompts: str | None = None,
    models: str | Sequence[str] | None = None,
    variants: str | Sequence[str] | None = None,
) -> LayersArguments:
    """Validate the marker's arguments. Raises ValueError in plain words.

    ``max_relative_error`` is the largest relative error of any layer's weights; ``top_k`` how many
    of the worst layers are named; ``prompts`` a prompt set on which the outputs of those layers are
    compared too (they explain, and do not decide); ``models`` and ``variants`` choose pairs (None:
    all).
    """
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"top_k={top_k!r} must be a whole number, at least 1")
    return LayersArguments(
        check="layers_within",
        margin=require_share("max_relative_error", max_relative_error),
        top_k=top_k,
        prompts=None if prompts is None else require_name("prompts", prompts),
        models=require_names("models", models),
        variants=require_names("variants", variants),
    )


def check_layers_within(pair: ModelPair, *, test: str = "", **arguments: Any) -> CheckResult:
    """Measure the weights of both arms and decide. ``arguments`` are those of the marker."""
    return measure_layers(pair, layers_within_arguments(**arguments), test=test)


def measure_layers(pair: ModelPair, arguments: LayersArguments, *, test: str = "") -> CheckResult:
    """As :func:`check_layers_within`, with arguments that are already validated.

    NOT_MEASURED when the two models do not have the same layers (weights that were really removed),
    or when one of them does not show its weights. Both are in memory at the same time.
    """
    from pytest_compsec.findings import LayerErrors

    original, compressed = pair.original, pair.compressed
    try:
        errors = _errors(original, compressed)
        worst = sorted(errors, key=_largest_first)[: arguments.top_k]
        outputs = _outputs(pair, arguments, original, compressed, worst)
    except MeasurementError as error:
        return plain_result(
            pair, arguments, test, Verdict.NOT_MEASURED, str(error), after=_OTHER_PAIRS
        )
    finally:
        pair.recheck()
    beyond = [error for error in errors if not error.relative <= arguments.margin]
    if not any(error.linear for error in errors):
        what = "the original has no linear layer that was found, so nothing was compared"
        return plain_result(pair, arguments, test, Verdict.NOT_MEASURED, what, after=_OTHER_PAIRS)
    found = LayerErrors(
        linear=sum(error.linear for error in errors),
        others=sum(not error.linear for error in errors),
        beyond=len(beyond),
        names=tuple(error.name for error in worst),
        weight_errors=tuple(_finite(error.relative) for error in worst),
        output_errors=tuple(_finite(outputs.get(error.name)) for error in worst),
    )
    largest = f"{shown_error(worst[0].relative)} at {worst[0].name}"
    limit = shown_error(arguments.margin)
    if beyond:
        what = (
            f"{len(beyond)} of {counted(found)} differ from the original's by more than {limit}; "
            f"the largest error is {largest}"
        )
        verdict, after = Verdict.REGRESSED, _AFTER_REGRESSION
    else:
        what = (
            f"all {counted(found)} are within {limit} of the original's; the largest error is "
            f"{largest}"
        )
        verdict, after = Verdict.PRESERVED, ""
    notes = (*_table(worst, outputs, arguments), NOT_BEHAVIOUR)
    result = plain_result(pair, arguments, test, verdict, what, after=after)
    return dataclasses.replace(
        result,
        layers=found,
        notes=notes,
        provenance=_provenance(pair, arguments, original, compressed),
    )


_AFTER_REGRESSION = (
    "Keep the layers named above in more bits (keep_in_full_precision), or decide on another "
    "max_relative_error if safety_preserved holds for this variant."
)
_OTHER_PAIRS = (
    "Name the variants that keep every layer of their original with variants=..., and leave this "
    "one to safety_preserved."
)


def counted(found: LayerErrors) -> str:
    """``272 weight tensors (210 linear layers, 62 others)``."""
    return f"{found.measured} weight tensors ({found.linear} linear layers, {found.others} others)"


def shown_error(value: float | None) -> str:
    """A relative error in percent."""
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{100 * value:.3g} %"


def _errors(original: LoadedModel, compressed: LoadedModel) -> tuple[WeightError, ...]:
    from pytest_compsec.localization.subject import at_rest, subject_of
    from pytest_compsec.localization.weight_error import weight_errors
    from pytest_compsec.models.quiet import quiet

    before, after = subject_of(original).module, subject_of(compressed).module
    with quiet(), at_rest(before, after):
        return weight_errors(before, after)


def _outputs(
    pair: ModelPair,
    arguments: LayersArguments,
    original: LoadedModel,
    compressed: LoadedModel,
    worst: Sequence[WeightError],
) -> Mapping[str, float | None]:
    """Relative errors of what the worst linear layers put out; empty without prompts."""
    if arguments.prompts is None:
        return {}
    from pytest_compsec.localization.activation_error import activation_errors
    from pytest_compsec.localization.log_odds import encoded
    from pytest_compsec.localization.subject import at_rest, subject_of
    from pytest_compsec.models.quiet import quiet

    first, second = subject_of(original), subject_of(compressed)
    prompts = pair.prompt_set(arguments.prompts).prompts[:ACTIVATION_PROMPTS]
    rows = encoded(first, [prompt.text for prompt in prompts])
    layers = {
        error.name: (
            first.module.get_submodule(error.name),
            second.module.get_submodule(error.name),
        )
        for error in worst
        if error.linear
    }
    with quiet(), at_rest(first.module, second.module):
        return activation_errors(
            first.module, second.module, layers, rows, (first.device, second.device)
        )


def _table(
    worst: Sequence[WeightError],
    outputs: Mapping[str, float | None],
    arguments: LayersArguments,
) -> list[str]:
    lines = []
    for error in worst:
        mark = "" if error.relative <= arguments.margin else ", beyond the limit"
        output = ""
        if outputs.get(error.name) is not None:
            output = f", its output by {shown_error(outputs[error.name])}"
        lines.append(f"{error.name}: weights differ by {shown_error(error.relative)}{output}{mark}")
    return lines


def _provenance(
    pair: ModelPair, arguments: LayersArguments, original: LoadedModel, compressed: LoadedModel
) -> dict[str, Any]:
    if arguments.prompts is not None:
        return pair.provenance(pair.prompt_set(arguments.prompts))
    return {
        "lock_digest": pair.lock_digest,
        "original": arm_provenance(original),
        "compressed": arm_provenance(compressed),
    }


def _largest_first(error: WeightError) -> float:
    return -math.inf if math.isnan(error.relative) else -error.relative


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
