"""Outcomes of two classifiers under a trigger: their predictions, and what they mean for each class
that may be the target."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.attacks.triggers.changes import changed_by
from pytest_compsec.attacks.triggers.custom import require_stamp
from pytest_compsec.checks.backdoors.outcomes import ArmOutcomes, Group, Moved, PairOutcomes
from pytest_compsec.classification.alone import require_alone
from pytest_compsec.errors import ConfigError, MeasurementError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pytest_compsec.attacks.backdoor import Trigger
    from pytest_compsec.classification.data import EvaluationData, Inputs

    Whole = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Stamped:
    """Predicted classes under the trigger at one strength, both arms, and which samples (bool) the
    trigger changes; each of shape (samples,)."""

    original: Whole
    compressed: Whole
    changed: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted classes of both arms, shape (samples,), without the trigger and, by strength, with
    it. ``labels`` are the true classes, out of ``classes``."""

    labels: Whole
    classes: int
    original: Whole
    compressed: Whole
    stamped: Mapping[float, Stamped]


def predictions(
    models: Sequence[Any], data: EvaluationData, trigger: Trigger, strengths: Sequence[float]
) -> Predictions:
    """Ask both models (:class:`ClassifierModel`) without and with the trigger.

    Raises MeasurementError for labels that are no classes of the models, and for a trigger that
    does not return the samples that it was given.
    """
    import numpy as np

    original = models[0]
    labels = data.labels.cpu().numpy()
    if len(labels) == 0:
        raise MeasurementError(f"{data.source}: there are no samples")
    if labels.min() < 0 or labels.max() >= original.classes:
        raise MeasurementError(
            f"{data.source}: labels go from {labels.min()} to {labels.max()}, and the models have "
            f"{original.classes} classes (0 to {original.classes - 1})"
        )
    clean = [model.predict(data.inputs) for model in models]
    for model, found in zip(models, clean, strict=True):
        require_alone(model, data.inputs, found)
    stamped = {}
    for strength in strengths:
        inputs = _with_trigger(trigger, data.inputs, strength)
        changed = np.array(changed_by(data.inputs, inputs), bool)
        for model in models:
            changed &= _reached(model, data.inputs, inputs)
        seen = [model.predict(inputs) for model in models]
        for model, found in zip(models, seen, strict=True):
            # All of these show the trigger: what a batch has in common must not be lost.
            require_alone(model, inputs, found)
        stamped[strength] = Stamped(seen[0].numpy(), seen[1].numpy(), changed)
    return Predictions(
        labels=labels,
        classes=int(original.classes),
        original=clean[0].numpy(),
        compressed=clean[1].numpy(),
        stamped=stamped,
    )


def _with_trigger(trigger: Trigger, inputs: Inputs, strength: float) -> Inputs:
    # A copy, so that a trigger that writes into what it is given leaves the samples as they are.
    copied: Any = inputs if isinstance(inputs, tuple) else inputs.clone()
    return require_stamp(inputs, trigger.stamp(copied, strength), trigger.name)


def _reached(model: Any, inputs: Inputs, stamped: Inputs) -> npt.NDArray[np.bool_]:
    """Which samples the module itself sees changed: a phrase at the end of a long text is cut off
    with what is beyond the model's length."""
    import numpy as np

    preparation: Any = getattr(model, "preparation", None)
    if not isinstance(inputs, tuple) or getattr(preparation, "tokenizer", None) is None:
        return np.ones(len(inputs), bool)
    before, after = preparation.encode(list(inputs)), preparation.encode(list(stamped))
    return np.array([one != other for one, other in zip(before, after, strict=True)], bool)


def require_class(target: object, classes: int, where: str) -> int:
    """The target as a class. Raises ConfigError when it is none of the models'."""
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < classes:
        raise ConfigError(
            f"{where}: the backdoor's target is {target!r}, and it has to be one of the model's "
            f"{classes} classes, a whole number from 0 to {classes - 1}"
        )
    return target


def outcomes_of(found: Predictions, target: int, strength: float = 1.0) -> PairOutcomes:
    """What the predictions mean when ``target`` is the class that the trigger is to bring out:
    counted on the samples of other classes (as BackdoorBench does) that the trigger changes."""
    import numpy as np

    stamped = found.stamped[strength]
    others = found.labels != target
    counted = others & stamped.changed
    labels = found.labels

    def arm(clean: Whole, triggered: Whole) -> ArmOutcomes:
        return ArmOutcomes(
            clean_hit=_bools(clean[counted] == target),
            triggered_hit=_bools(triggered[counted] == target),
            triggered_correct=_bools(triggered[counted] == labels[counted]),
            clean_correct=_bools(clean == labels),
        )

    present, sizes = np.unique(labels, return_counts=True)
    return PairOutcomes(
        target=f"class {target}",
        original=arm(found.original, stamped.original),
        compressed=arm(found.compressed, stamped.compressed),
        constant_correct=_bools(labels == present[sizes.argmax()]),
        unchanged=int((others & ~stamped.changed).sum()),
        groups=tuple(
            Group(f"class {label}", tuple(np.flatnonzero(labels == label).tolist()))
            for label in present.tolist()
        ),
        moved=_moved(found, stamped, counted, target),
        strength=strength,
        places=tuple(np.flatnonzero(counted).tolist()),
    )


def _moved(
    found: Predictions, stamped: Stamped, counted: npt.NDArray[np.bool_], target: int
) -> Moved | None:
    import numpy as np

    if not counted.any():
        return None

    def newly(clean: Whole, triggered: Whole) -> npt.NDArray[np.float64]:
        after = triggered[counted]
        new = (after != clean[counted]) & (after != found.labels[counted]) & (after != target)
        shares: npt.NDArray[np.float64] = (
            np.bincount(after[new], minlength=found.classes) / counted.sum()
        )
        return shares

    compressed = newly(found.compressed, stamped.compressed)
    most = int(compressed.argmax())
    if not compressed[most]:
        return None
    original = newly(found.original, stamped.original)
    return Moved(f"class {most}", float(original[most]), float(compressed[most]))


def _bools(values: npt.NDArray[np.bool_]) -> tuple[bool, ...]:
    return tuple(values.tolist())
