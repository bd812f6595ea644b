"""Both arms under the same list of attacks, sample by sample."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from pytest_compsec.attacks.gradient import secml
from pytest_compsec.attacks.gradient.masking import WHITE_BOX
from pytest_compsec.attacks.gradient.quantization_aware import simulated_quantized
from pytest_compsec.attacks.gradient.square import square_attack
from pytest_compsec.attacks.gradient.straight_through import AttackedModel, attacked
from pytest_compsec.attacks.gradient.white_box import white_box_attack
from pytest_compsec.classification.alone import require_same_alone
from pytest_compsec.errors import CompsecError, MeasurementError

if TYPE_CHECKING:
    from pytest_compsec.attacks.gradient.budget import AttackSettings
    from pytest_compsec.classification.model import ClassifierModel

TRANSFER = "transfer"
QUERY = "query"
QUANTIZATION_AWARE = "quantization-aware"


@dataclasses.dataclass(frozen=True, eq=False)
class AttackedArm:
    """One arm; every tensor is bool. ``correct`` (samples,): classified right without an attack.
    ``fooled[attack]`` (samples,): right without and wrong under this attack. ``resists`` (sets,
    samples): classifies the example of each set right (see :class:`Attacked`).
    ``without_gradient`` (samples,): right, and the white-box attack had no gradient to follow."""

    correct: torch.Tensor
    fooled: Mapping[str, torch.Tensor]
    resists: torch.Tensor
    without_gradient: torch.Tensor
    gradients: str

    @property
    def robust(self) -> torch.Tensor:
        """(samples,), bool: right without an attack and under each of them."""
        return self.correct & ~torch.stack(list(self.fooled.values())).any(0)


@dataclasses.dataclass(frozen=True, eq=False)
class Attacked:
    """Both arms under the same attacks. ``sets``: what the examples were made on, in the order of
    ``AttackedArm.resists``. ``forward_passes`` and ``backward_passes`` count single samples."""

    original: AttackedArm
    compressed: AttackedArm
    sets: tuple[str, ...]
    forward_passes: int
    backward_passes: int
    notes: tuple[str, ...] = ()


def attack_both(
    original: ClassifierModel,
    compressed: ClassifierModel,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    settings: AttackSettings,
) -> Attacked:
    """Attack all samples that at least one arm classifies right, on both arms.

    ``inputs`` (samples, ...) floats, ``labels`` (samples,) class indices. Whether an example fools
    an arm is decided by that arm's real module alone, whatever it was made on.

    Raises MissingExtraError without secml-torch; MeasurementError for inputs that are no finite
    numbers in the budget's range, labels that are no classes, or outputs that are not finite.
    """
    secml.require_library()
    inputs, labels = _checked(inputs, labels, settings)
    with failing_modules_named():
        first, second = attacked(original), attacked(compressed)
        simulated = simulated_quantized(original, settings.quantization_bits)
        third = AttackedModel(simulated.model)
        # Rounding the original alone would tilt the pool of examples to its side: with the arms
        # swapped, it must be the same pool.
        fourth = AttackedModel(simulated_quantized(compressed, settings.quantization_bits).model)
    models = (first, second, third, fourth)
    with _without_parameter_gradients(*models), failing_modules_named():
        correct = []
        for arm in (first, second):
            logits = arm.logits(inputs, settings.batch_size)
            require_same_alone(arm.model, inputs, logits)
            correct.append(logits.argmax(1) == labels)
        places = (correct[0] | correct[1]).nonzero().squeeze(1)
        samples, classes = inputs[places], labels[places]
        made = {
            "the original": white_box_attack(first, samples, classes, settings),
            "the compressed model": white_box_attack(second, samples, classes, settings),
            "the simulated quantized model": white_box_attack(third, samples, classes, settings),
            "queries of the original": _by_queries(first, samples, classes, settings),
            "queries of the compressed model": _by_queries(second, samples, classes, settings),
            "the compressed model, rounded": white_box_attack(fourth, samples, classes, settings),
        }
        arms = []
        for at, arm in enumerate((first, second)):
            resists = torch.zeros(len(made), len(inputs), dtype=torch.bool)
            for row, examples in enumerate(made.values()):
                resists[row, places] = _right(arm, examples, classes, settings)
            arms.append(_outcome(arm, at, inputs, labels, correct[at], resists, settings))
    note = f"no weights were rounded for the quantization-aware attack: {simulated.note}"
    return Attacked(
        original=arms[0],
        compressed=arms[1],
        sets=tuple(made),
        forward_passes=sum(model.forward_passes for model in models),
        backward_passes=sum(model.backward_passes for model in models),
        notes=(note,) if simulated.note else (),
    )


def _outcome(
    arm: AttackedModel,
    at: int,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    correct: torch.Tensor,
    resists: torch.Tensor,
    settings: AttackSettings,
) -> AttackedArm:
    without = torch.zeros_like(correct)
    without[correct] = arm.without_gradient(inputs[correct], labels[correct], settings.batch_size)
    # The rows of ``resists``: made on the original, on the compressed model, on the simulated one,
    # by queries of the original, by queries of the compressed model, on the latter rounded.
    rows = {WHITE_BOX: at, TRANSFER: 1 - at, QUERY: 3 + at, QUANTIZATION_AWARE: 2}
    return AttackedArm(
        correct=correct,
        fooled={name: correct & ~resists[row] for name, row in rows.items()},
        resists=resists,
        without_gradient=without,
        gradients=arm.gradients,
    )


def _right(
    arm: AttackedModel, inputs: torch.Tensor, labels: torch.Tensor, settings: AttackSettings
) -> torch.Tensor:
    """(samples,), bool: the real module's classes are the true ones."""
    if not len(inputs):
        return torch.zeros(0, dtype=torch.bool)
    return arm.logits(inputs, settings.batch_size).argmax(1) == labels


def _by_queries(
    arm: AttackedModel, samples: torch.Tensor, labels: torch.Tensor, settings: AttackSettings
) -> torch.Tensor:
    if not len(samples):
        return samples
    return square_attack(
        lambda tried: arm.logits(tried, settings.batch_size),
        samples,
        labels,
        settings.budget,
        queries=settings.queries,
        seed=settings.seed,
        batch_size=settings.batch_size,
    )


def _checked(
    inputs: torch.Tensor, labels: torch.Tensor, settings: AttackSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    if not inputs.is_floating_point():
        raise MeasurementError(
            f"the samples are {str(inputs.dtype).removeprefix('torch.')}: attacks move inputs by "
            "fractions. Give them as floats, usually in [0, 1]"
        )
    if not len(inputs):
        raise MeasurementError("the evaluation data hold no sample")
    inputs = inputs.detach().float().cpu()
    if not bool(inputs.isfinite().all()):
        raise MeasurementError("some samples are NaN or infinite")
    settings.budget.require_inside(inputs)
    return inputs, labels.detach().long().cpu()


@contextlib.contextmanager
def failing_modules_named() -> Iterator[None]:
    """The modules are the user's: their backward pass may raise anything, and so may copying them.
    All of it becomes a MeasurementError; errors of this package stay what they are."""
    try:
        yield
    except CompsecError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        if isinstance(error, MemoryError) or "out of memory" in text.lower():
            problem = "not enough memory: give fewer samples"
        else:
            problem = f"{type(error).__name__}: {text}"
        raise MeasurementError(
            f"the attacks could not be made on these modules ({problem}). An attack copies a "
            "module (copy.deepcopy) and follows its gradient back to the inputs"
        ) from error


@contextlib.contextmanager
def _without_parameter_gradients(*models: AttackedModel) -> Iterator[None]:
    """Only inputs need gradients; parameters would collect theirs at every step."""
    modules = [part.module for model in models for part in (model.model, model.surrogate) if part]
    asking = [p for module in modules for p in module.parameters() if p.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
