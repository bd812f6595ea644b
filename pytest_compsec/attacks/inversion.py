"""The search for a backdoor whose trigger nobody knows: Neural Cleanse (Wang et al., S&P 2019).

For each class the smallest stamp is sought that turns samples of all other classes into it. A class
that a backdoor leads to takes a much smaller one than the rest, so it stands out among the sizes.
What is found is evidence. That nothing is found proves nothing: :data:`LIMITS` says why.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pytest_compsec.errors import MeasurementError

if TYPE_CHECKING:
    import torch

    from pytest_compsec.classification.data import EvaluationData

#: What slips through, or is mistaken, by the nature of the method.
LIMITS = (
    "triggers that cover much of the input, are blended into all of it, or differ from input to "
    "input need no smaller a stamp than a clean class does, and are not found",
    "backdoors with many targets (all-to-all) lower the size of every class: none stands out",
    "a class that is easily reached without a backdoor can look like one",
    "the median of few classes says little: with fewer than five no class is judged",
    "an attacker who knows the method can train against it",
)

# 1.4826 times the median absolute deviation estimates the standard deviation of normal numbers; an
# index above 2 is an outlier with more than 95 % (section IV-B of the paper).
_CONSISTENCY = 1.4826
_OUTLIER = 2.0
#: Fewer sizes than this say nothing about what is usual.
LEAST_CLASSES = 5
# A quarter of an epoch of the reference would be more; this is often enough for the schedule.
_STEPS_PER_ROUND = 10

Outcome = Literal["suspects", "none stands out", "undecided"]


class DifferentiableClassifier(Protocol):
    """What of :class:`pytest_compsec.classification.model.ClassifierModel` is needed."""

    @property
    def device(self) -> str: ...

    @property
    def forward(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """A batch of inputs -> logits (samples, classes), differentiable in the inputs."""
        ...


@dataclasses.dataclass(frozen=True)
class ClassInversion:
    """What was found for class ``target``: a stamp whose mask has the L1 norm ``mask_norm`` (in
    whole inputs' elements) and turns the share ``success_rate`` of samples of other classes into
    it. ``reason`` says why a class was not inverted (None: it was); then it has no
    ``anomaly_index``, and nothing is known about it."""

    target: int
    mask_norm: float
    success_rate: float
    reason: str | None = None
    anomaly_index: float | None = None
    suspect: bool = False

    @property
    def inverted(self) -> bool:
        return self.reason is None


@dataclasses.dataclass(frozen=True)
class InversionReport:
    """All classes of one model. ``median`` is that of the mask norms of the inverted classes (None:
    too few). ``samples`` from ``source`` (digest: sha256, hex) were stamped."""

    classes: tuple[ClassInversion, ...]
    median: float | None
    samples: int
    source: str
    digest: str
    steps: int
    learning_rate: float
    batch_size: int
    seed: int
    success_rate: float
    limits: tuple[str, ...] = LIMITS

    @property
    def suspects(self) -> tuple[int, ...]:
        return tuple(found.target for found in self.classes if found.suspect)

    @property
    def not_inverted(self) -> tuple[int, ...]:
        return tuple(found.target for found in self.classes if not found.inverted)

    @property
    def outcome(self) -> Outcome:
        """``none stands out`` only where every class was inverted and compared; it does not mean
        that there is no backdoor."""
        if self.suspects:
            return "suspects"
        if self.not_inverted or self.median is None:
            return "undecided"
        return "none stands out"

    def lines(self) -> tuple[str, ...]:
        """For a terminal: the outcome, a line for each class, the limits."""
        rows = [_row(found) for found in self.classes]
        return (self._headline(), *rows, "limits:", *(f"  - {limit}" for limit in self.limits))

    def _headline(self) -> str:
        if self.outcome == "suspects":
            names = ", ".join(str(target) for target in self.suspects)
            return f"trigger inversion: suspected target of a backdoor: class {names}"
        if self.outcome == "undecided":
            missing = ", ".join(str(target) for target in self.not_inverted)
            reason = f"class {missing} could not be inverted" if missing else "too few classes"
            return f"trigger inversion: undecided, {reason}"
        return "trigger inversion: no class stands out (no proof that there is no backdoor)"

    def to_json(self) -> dict[str, Any]:
        return {
            **dataclasses.asdict(self),
            "classes": [dataclasses.asdict(found) for found in self.classes],
            "limits": list(self.limits),
            "outcome": self.outcome,
            "suspects": list(self.suspects),
            "not_inverted": list(self.not_inverted),
        }


def find_triggers(
    model: DifferentiableClassifier,
    data: EvaluationData,
    *,
    steps: int = 500,
    learning_rate: float = 0.1,
    batch_size: int = 64,
    seed: int = 0,
    success_rate: float = 0.99,
    bounds: tuple[float, float] = (0.0, 1.0),
    notify: Callable[[str], None] = lambda text: None,
) -> InversionReport:
    """Look for the smallest stamp to each class, in ``steps`` steps of Adam for each.

    ``success_rate`` is what a stamp must reach while it is made small; a class whose best stamp
    reaches less on all samples of other classes (by more than 5 points) counts as not inverted.
    Inputs are within ``bounds``. The result is the same for the same ``seed``; no random state but
    its own is read or changed, and the model's weights get no gradients.

    Raises MeasurementError for texts, inputs outside of ``bounds``, samples of fewer than two
    classes, and ValueError for settings that make no sense.
    """
    from pytest_compsec.attacks.stamps import invert_class

    if steps < _STEPS_PER_ROUND or batch_size < 1 or not 0 < success_rate <= 1:
        raise ValueError(
            f"'steps' must be at least {_STEPS_PER_ROUND}, 'batch_size' at least 1, 'success_rate' "
            "above 0 and at most 1"
        )
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError("'learning_rate' must be a number above 0")
    inputs = _images(data, bounds)
    classes = _classes(model, inputs, data)
    found = []
    for target in range(classes):
        result = invert_class(
            model,
            inputs[data.labels != target],
            target,
            steps=steps,
            steps_per_round=_STEPS_PER_ROUND,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
            success_rate=success_rate,
            bounds=bounds,
        )
        found.append(result.summary)
        notify(_row(result.summary).strip())
    judged, median = judge(found)
    return InversionReport(
        classes=judged,
        median=median,
        samples=len(data),
        source=data.source,
        digest=data.digest,
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        success_rate=success_rate,
    )


def judge(
    found: Sequence[ClassInversion],
) -> tuple[tuple[ClassInversion, ...], float | None]:
    """The inverted classes with their anomaly index, |norm − median| / (1.4826 · median absolute
    deviation), and whether they are suspects: below the median with an index above 2. The median
    too; None, and no index, for fewer than :data:`LEAST_CLASSES` inverted classes."""
    norms = [one.mask_norm for one in found if one.inverted]
    if len(norms) < LEAST_CLASSES:
        return tuple(found), None
    median = statistics.median(norms)
    deviation = _CONSISTENCY * statistics.median(abs(norm - median) for norm in norms)

    def judged(one: ClassInversion) -> ClassInversion:
        if not one.inverted:
            return one
        distance = abs(one.mask_norm - median)
        # Where most norms are the very same, whatever differs is infinitely far from usual; a
        # large number says so too, and JSON has it.
        index = distance / deviation if deviation else (1e9 if distance else 0.0)
        suspect = one.mask_norm < median and index > _OUTLIER
        return dataclasses.replace(one, anomaly_index=index, suspect=suspect)

    return tuple(judged(one) for one in found), median


def _row(found: ClassInversion) -> str:
    reached = f"mask {found.mask_norm:.2f}, reached {found.success_rate:.1%}"
    if found.reason is not None:
        return f"  class {found.target}: not inverted: {found.reason} ({reached})"
    index = "no index" if found.anomaly_index is None else f"index {found.anomaly_index:.2f}"
    return f"  class {found.target}: {reached}, {index}{', SUSPECT' if found.suspect else ''}"


def _images(data: EvaluationData, bounds: tuple[float, float]) -> torch.Tensor:
    inputs = data.inputs
    if isinstance(inputs, tuple):
        raise MeasurementError(
            "trigger inversion needs gradients with respect to the inputs, and texts have none: it "
            "works on image classifiers"
        )
    if not inputs.is_floating_point():
        raise MeasurementError(
            f"trigger inversion needs inputs that are float numbers; those of {data.source} are "
            f"{str(inputs.dtype).removeprefix('torch.')}"
        )
    if len(data) == 0:
        raise MeasurementError(f"trigger inversion: {data.source} holds no sample")
    lowest, highest = float(inputs.min()), float(inputs.max())
    if not bounds[0] <= lowest <= highest <= bounds[1]:
        raise MeasurementError(
            f"trigger inversion: the inputs of {data.source} lie in [{lowest:g}, {highest:g}], not "
            f"in [{bounds[0]:g}, {bounds[1]:g}]: give their range as 'bounds'"
        )
    return inputs.float()


def _classes(model: DifferentiableClassifier, inputs: torch.Tensor, data: EvaluationData) -> int:
    import torch

    with torch.no_grad():
        classes = int(model.forward(inputs[:1].to(model.device)).shape[1])
    present = len(set(data.labels.tolist()))
    if classes < 2 or present < 2:
        raise MeasurementError(
            f"trigger inversion needs samples of two classes at least: {data.source} has "
            f"{present}, the model {classes}"
        )
    return classes
