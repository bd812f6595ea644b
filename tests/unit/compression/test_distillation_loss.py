"""The distillation loss against closed forms: direction, temperature, weights, masks, numerics."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pytest_compsec.compression.distillation import SafetyAwareDistillation
from pytest_compsec.compression.distillation_loss import hard_loss, soft_loss

# Of two classes with logits (d, 0): the probabilities are known in closed form.
TEACHER, STUDENT = 2.0, -1.0


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def divergence(p: float, q: float) -> float:
    """KL(p ‖ q) in nats of two coins."""
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def pair(value: float, **options: Any) -> torch.Tensor:
    return torch.tensor([[value, 0.0]], **options)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The soft term


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0])
def test_the_soft_term_is_from_teacher_to_student_times_the_squared_temperature(
    temperature: float,
) -> None:
    found = float(soft_loss(pair(STUDENT), pair(TEACHER), temperature))
    p, q = sigmoid(TEACHER / temperature), sigmoid(STUDENT / temperature)
    assert found == pytest.approx(temperature**2 * divergence(p, q), rel=1e-5)
    # The other direction, or no T², is another number.
    assert found != pytest.approx(temperature**2 * divergence(q, p), rel=1e-3)
    assert temperature == 1 or found != pytest.approx(divergence(p, q), rel=1e-2)


def test_a_class_that_the_student_misses_costs_most() -> None:
    """What the direction is for: a student that leaves out what the teacher does pays without
    bound, one that does a little beside it does not."""
    both, one = torch.tensor([[0.0, 0.0]]), torch.tensor([[30.0, 0.0]])
    assert float(soft_loss(one, both, 1.0)) == pytest.approx(15 - math.log(2), rel=1e-4)
    assert float(soft_loss(both, one, 1.0)) == pytest.approx(math.log(2), rel=1e-4)


def test_gradients_keep_their_size_when_the_temperature_is_high() -> None:
    """Hinton et al. 2015, section 2.1: at high temperature the gradient times T² goes to
    (z - v) / N for logits of zero mean, whatever T is."""
    student = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.0, 1.0, -1.0]], dtype=torch.float64)
    for temperature in (100.0, 1000.0):
        (gradient,) = torch.autograd.grad(soft_loss(student, teacher, temperature).sum(), student)
        torch.testing.assert_close(gradient, (student - teacher).detach() / 3, rtol=0.02, atol=0.01)


def test_no_gradient_reaches_the_teacher() -> None:
    teacher, student = pair(TEACHER, requires_grad=True), pair(STUDENT, requires_grad=True)
    soft_loss(student, teacher, 2.0).sum().backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None


def test_the_same_logits_cost_nothing() -> None:
    logits = normal(4, 7) * 50
    assert float(soft_loss(logits, logits, 2.0).abs().max()) < 1e-5


def test_classes_that_both_exclude_add_nothing_and_one_that_the_student_does_is_infinite() -> None:
    teacher = torch.tensor([[TEACHER, 0.0, -math.inf]])
    student = torch.tensor([[STUDENT, 0.0, -math.inf]], requires_grad=True)
    loss = soft_loss(student, teacher, 1.0)
    assert float(loss.detach()) == pytest.approx(
        divergence(sigmoid(TEACHER), sigmoid(STUDENT)), rel=1e-5
    )
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert bool(gradient.isfinite().all())
    assert math.isinf(float(soft_loss(student.detach(), torch.zeros(1, 3), 1.0)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = normal(8, 1000, seed=1).to(dtype) * 20, normal(8, 1000).to(dtype) * 20
    labels = torch.arange(8)
    found = SafetyAwareDistillation(temperature=2.0)(student, teacher, labels)
    wanted = SafetyAwareDistillation(temperature=2.0)(student.double(), teacher.double(), labels)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_large_logits_do_not_overflow() -> None:
    loss = SafetyAwareDistillation(temperature=0.5)
    assert math.isfinite(float(loss(pair(-3e4), pair(3e4), torch.tensor([0]))))


# The terms together


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_alpha_weighs_the_teacher_against_the_labels(alpha: float) -> None:
    found = SafetyAwareDistillation(temperature=2.0, alpha=alpha)(
        pair(STUDENT), pair(TEACHER), torch.tensor([0])
    )
    soft = 4 * divergence(sigmoid(TEACHER / 2), sigmoid(STUDENT / 2))
    hard = -math.log(sigmoid(STUDENT))  # At temperature 1.
    assert float(found) == pytest.approx(alpha * soft + (1 - alpha) * hard, rel=1e-5)


def test_a_safety_sample_weighs_that_many_others() -> None:
    student, teacher, labels = normal(4, 3, seed=1), normal(4, 3), torch.tensor([0, 1, 2, 0])
    safety = torch.tensor([False, True, False, False])
    plain, weighted = SafetyAwareDistillation(), SafetyAwareDistillation(safety_weight=10.0)
    each = 0.5 * soft_loss(student, teacher, 2.0) + 0.5 * hard_loss(student, labels)
    assert float(plain(student, teacher, labels, safety=safety)) == pytest.approx(
        float(each.mean()), rel=1e-5
    )
    # Nothing is taken from the others: the sum grows, the count stays.
    wanted = float(each[0] + 10 * each[1] + each[2] + each[3]) / 4
    assert float(weighted(student, teacher, labels, safety=safety)) == pytest.approx(
        wanted, rel=1e-5
    )
    half = weighted(student, teacher, labels, safety=safety.float() / 2)
    wanted = float(each[0] + 5.5 * each[1] + each[2] + each[3]) / 4
    assert float(half) == pytest.approx(wanted, rel=1e-5)


def test_without_safety_samples_the_weight_changes_nothing() -> None:
    student, teacher, labels = normal(4, 3, seed=1), normal(4, 3), torch.tensor([0, 1, 2, 0])
    found = SafetyAwareDistillation(safety_weight=10.0)(student, teacher, labels)
    assert torch.equal(found, SafetyAwareDistillation()(student, teacher, labels))


# Tokens


def test_tokens_are_averaged_over_those_that_count() -> None:
    student, teacher = normal(2, 3, 5, seed=1), normal(2, 3, 5)
    labels = torch.tensor([[-100, 1, 2], [3, -100, -100]])
    loss = SafetyAwareDistillation()
    chosen = [(0, 1), (0, 2), (1, 0)]
    rows = torch.stack([torch.stack([x[place] for place in chosen]) for x in (student, teacher)])
    wanted = loss(rows[0], rows[1], torch.tensor([1, 2, 3]))
    assert float(loss(student, teacher, labels)) == pytest.approx(float(wanted), rel=1e-6)
    full = labels.clamp(min=0)
    counted = labels != -100
    assert torch.equal(
        loss(student, teacher, full, counted=counted), loss(student, teacher, labels)
    )


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, 1e30])
def test_what_does_not_count_may_hold_anything(rubbish: float) -> None:
    student, teacher = normal(2, 3, 5, seed=1), normal(2, 3, 5)
    labels = torch.tensor([[-100, 1, 2], [3, -100, -100]])
    wanted = SafetyAwareDistillation()(student, teacher, labels)
    student[0, 0], teacher[1, 2] = rubbish, rubbish
    student.requires_grad_(True)
    found = SafetyAwareDistillation()(student, teacher, labels)
    assert torch.equal(found, wanted)
    found.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert bool(student.grad[0, 0].eq(0).all())
    assert bool(student.grad.isfinite().all())


def test_a_flag_on_a_sample_holds_for_its_tokens() -> None:
    student, teacher = normal(2, 3, 5, seed=1), normal(2, 3, 5)
    labels = torch.tensor([[0, 1, 2], [3, 4, -100]])
    loss = SafetyAwareDistillation(safety_weight=7.0)
    each_token = torch.tensor([[False] * 3, [True] * 3])
    found = loss(student, teacher, labels, safety=torch.tensor([False, True]))
    assert torch.equal(found, loss(student, teacher, labels, safety=each_token))
    one = torch.zeros(2, 3)
    one[1, 0] = 1.0
    assert float(loss(student, teacher, labels, safety=one)) < float(found)


def test_a_fraction_counts_as_a_share_of_a_row() -> None:
    student, teacher, labels = normal(2, 3, seed=1), normal(2, 3), torch.tensor([0, 1])
    loss = SafetyAwareDistillation()
    first, second = (
        float(loss(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1])) for i in (0, 1)
    )
    found = loss(student, teacher, labels, counted=torch.tensor([1.0, 0.25]))
    assert float(found) == pytest.approx((first + 0.25 * second) / 1.25, rel=1e-5)


def test_the_teacher_alone_needs_no_labels() -> None:
    found = SafetyAwareDistillation(alpha=1.0)(pair(STUDENT), pair(TEACHER))
    assert float(found) == pytest.approx(float(soft_loss(pair(STUDENT), pair(TEACHER), 2.0)))


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha must be from 0 .* not 1.5"),
        ({"alpha": -0.1}, "alpha"),
        ({"alpha": math.nan}, "alpha"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0.0"),
        ({"temperature": math.inf}, "temperature"),
        ({"safety_weight": 0.5}, "safety_weight must be at least 1 .* not 0.5"),
        ({"safety_weight": math.nan}, "safety_weight"),
    ],
)
def test_settings_out_of_range_are_an_error(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SafetyAwareDistillation(**options)


LOGITS = torch.zeros(2, 3, 5)
LABELS = torch.zeros(2, 3, dtype=torch.long)


@pytest.mark.parametrize(
    ("student", "teacher", "labels", "masks", "message"),
    [
        (LOGITS, torch.zeros(2, 3, 6), LABELS, {}, "student has 5 .* the teacher 6.*tokenizer"),
        (LOGITS, torch.zeros(2, 4, 5), LABELS, {}, r"\(2, 3, 5\), the teacher's \(2, 4, 5\)"),
        (torch.zeros(5), torch.zeros(5), LABELS, {}, r"not \(5,\)"),
        (LOGITS, LOGITS, LABELS[:, :2], {}, r"labels must have shape \(2, 3\), not \(2, 2\)"),
        (LOGITS, LOGITS, LABELS.float(), {}, "labels must be integers"),
        (LOGITS, LOGITS, LABELS + 5, {}, "label 5 is none of the 5"),
        (LOGITS, LOGITS, LABELS - 1, {}, "label -1 is none of the 5"),
        (LOGITS, LOGITS, None, {}, "needs labels"),
        (LOGITS, LOGITS, LABELS - 100, {}, "no row is counted"),
        (LOGITS, LOGITS, LABELS, {"counted": torch.zeros(2, 3)}, "no row is counted"),
        (LOGITS, LOGITS, LABELS, {"safety": torch.ones(3)}, r"safety must have shape \(2,\) or"),
        (LOGITS, LOGITS, LABELS, {"safety": torch.ones(2) * 2}, "boolean or from 0 to 1"),
        (LOGITS, LOGITS, LABELS, {"counted": -torch.ones(2)}, "counted must be boolean or from"),
        (LOGITS, LOGITS, LABELS, {"counted": torch.ones(2) * math.nan}, "counted must be"),
    ],
)
def test_what_does_not_fit_is_an_error(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor | None,
    masks: dict[str, torch.Tensor],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        SafetyAwareDistillation()(student, teacher, labels, **masks)
