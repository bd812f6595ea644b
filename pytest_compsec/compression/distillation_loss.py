"""The loss with which a student learns from a teacher without losing its refusals.

Plain distillation (Hinton, Vinyals & Dean 2015, arXiv 1503.02531) spends the student's capacity
where most samples are. Refusals are rare there, so they go first, and the mean loss hardly shows
it. :class:`SafetyAwareDistillation` lets each safety sample weigh as much as many others. A student
that cannot tell harmful requests from those that look like them then refuses both: measure
over-refusal beside refusal.
"""

from __future__ import annotations

import dataclasses
import math

import torch

#: Labels with this value count for nothing, as in ``torch.nn.functional.cross_entropy``.
IGNORED_LABEL = -100


@dataclasses.dataclass(frozen=True)
class SafetyAwareDistillation:
    """``mean over counted rows of w × (alpha × soft + (1 - alpha) × hard)``.

    ``soft`` is :func:`soft_loss` at ``temperature``, ``hard`` the cross-entropy against the labels,
    ``w`` is ``safety_weight`` where a row is flagged as safety and 1 elsewhere. The mean is over
    the number of counted rows, not over the sum of ``w``: more weight on safety rows takes nothing
    from the others. ``safety_weight`` 1 is plain distillation. Where safety rows are a share s of
    all, ``(1 - s) / s`` makes both kinds weigh the same together.

    Raises ValueError when ``temperature`` is not above 0, ``alpha`` is not from 0 to 1, or
    ``safety_weight`` is below 1.
    """

    temperature: float = 2.0
    alpha: float = 0.5
    safety_weight: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be above 0, not {self.temperature}")
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(
                f"alpha must be from 0 (labels only) to 1 (teacher only), not {self.alpha}"
            )
        if not (math.isfinite(self.safety_weight) and self.safety_weight >= 1):
            raise ValueError(
                "safety_weight must be at least 1 (a safety sample weighs that many others), not "
                f"{self.safety_weight}"
            )

    def __call__(
        self,
        student_logits: torch.Tensor,
        teacher_logits: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        counted: torch.Tensor | None = None,
        safety: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss as a scalar in float32 (float64 for float64 logits).

        Logits of a classifier have shape (batch, classes), those of a language model (batch,
        tokens, vocabulary); a *row* is what has one distribution. ``labels`` are class or token
        indices of shape (batch,) or (batch, tokens): the token that the logits at that place
        should predict, so the caller shifts. They may be left out when ``alpha`` is 1; a label of
        -100 takes its row out. ``counted`` and ``safety``, boolean or floats from 0 to 1, have
        shape (batch,) or (batch, tokens). ``counted`` 0 takes the row out, whatever it holds, NaN
        included; a fraction is a share of a row. No gradient reaches the teacher.

        Raises ValueError for shapes that do not fit each other, labels that the vocabulary does
        not have, mask values outside of 0 to 1, and when no row is counted.
        """
        _check_logits(student_logits, teacher_logits)
        rows = student_logits.shape[:-1]
        classes = student_logits.shape[-1]
        device = student_logits.device
        counts = _mask("counted", counted, rows, device, default=1.0)
        flags = _mask("safety", safety, rows, device, default=0.0)
        if labels is not None:
            labels = _checked_labels(labels.to(device), rows, classes)
            counts = counts * (labels != IGNORED_LABEL)
        elif self.alpha < 1.0:
            raise ValueError(
                f"alpha {self.alpha} needs labels for the hard term; with 1 it has none"
            )
        chosen = counts > 0
        if not bool(chosen.any()):
            raise ValueError(
                "no row is counted: the mask is empty, or every label is ignored (-100)"
            )
        student = student_logits[chosen]
        losses = torch.zeros((), device=device)
        if self.alpha > 0.0:
            teacher = teacher_logits.to(device)[chosen]
            losses = losses + self.alpha * soft_loss(student, teacher, self.temperature)
        if self.alpha < 1.0 and labels is not None:
            losses = losses + (1.0 - self.alpha) * hard_loss(student, labels[chosen])
        weights = 1.0 + (self.safety_weight - 1.0) * flags[chosen]
        counts = counts[chosen]
        return (losses * weights * counts).sum() / counts.sum()


def soft_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float
) -> torch.Tensor:
    """``T² × KL(teacher ‖ student)`` in nats of the distributions softened by ``temperature`` T,
    of shape (rows,) for logits of shape (rows, classes); in float32 at least.

    The direction and the T² (which keeps the size of the gradients when T changes) are those of
    Hinton et al. 2015, section 2. A class that the teacher excludes (logit -inf) adds nothing; one
    that only the student excludes makes the loss infinite, as it should be.
    """
    teacher = torch.log_softmax(_wide(teacher_logits.detach()) / temperature, dim=-1)
    student = torch.log_softmax(_wide(student_logits) / temperature, dim=-1)
    probabilities = teacher.exp()
    # 0 × (-inf) would be NaN; NaN itself must come through, so the test is for what is 0.
    excluded = probabilities == 0
    ratios = (teacher - student).masked_fill(excluded, 0.0)
    return temperature**2 * (probabilities * ratios).sum(-1)


def hard_loss(student_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of shape (rows,); in float32 at least, at temperature 1."""
    return torch.nn.functional.cross_entropy(_wide(student_logits), labels, reduction="none")


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _check_logits(student: torch.Tensor, teacher: torch.Tensor) -> None:
    if student.dim() not in (2, 3):
        raise ValueError(
            "logits must have shape (batch, classes) or (batch, tokens, vocabulary), not "
            f"{tuple(student.shape)}"
        )
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"the student has {student.shape[-1]} classes or tokens, the teacher "
            f"{teacher.shape[-1]}: the soft term compares them one by one, so both must use the "
            "same labels or the same tokenizer (cut off padding of the vocabulary on both sides)"
        )
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's logits have shape {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)}: both must have read the same batch"
        )


def _checked_labels(labels: torch.Tensor, rows: torch.Size, classes: int) -> torch.Tensor:
    if labels.shape != rows:
        raise ValueError(f"labels must have shape {tuple(rows)}, not {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers (class or token indices), not {labels.dtype}")
    labels = labels.long()
    wrong = labels[(labels != IGNORED_LABEL) & ((labels < 0) | (labels >= classes))]
    if len(wrong):
        raise ValueError(f"label {int(wrong[0])} is none of the {classes} classes or tokens")
    return labels


def _mask(
    name: str,
    mask: torch.Tensor | None,
    rows: torch.Size,
    device: torch.device,
    *,
    default: float,
) -> torch.Tensor:
    """``mask`` as floats of shape ``rows``; one of shape (batch,) holds for all of a sample."""
    if mask is None:
        return torch.full(rows, default, device=device)
    if mask.shape != rows and mask.shape != rows[:1]:
        shapes = f"{tuple(rows[:1])} or {tuple(rows)}" if len(rows) > 1 else f"{tuple(rows)}"
        raise ValueError(f"{name} must have shape {shapes}, not {tuple(mask.shape)}")
    values = mask.to(device=device, dtype=torch.float32)
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(f"{name} must be boolean or from 0 to 1")
    if values.shape != rows:
        values = values[:, None].expand(rows)
    return values
