"""Gradient and query attacks against models whose robustness is known exactly."""

from __future__ import annotations

import functools
import sys
from typing import Any

import pytest
import torch

from pytest_compsec.attacks.gradient import secml
from pytest_compsec.attacks.gradient.attacking import attack_both
from pytest_compsec.attacks.gradient.budget import AttackSettings, Budget, Norm
from pytest_compsec.attacks.gradient.square import peak, square_attack, window_share
from pytest_compsec.attacks.gradient.straight_through import attacked
from pytest_compsec.attacks.gradient.white_box import white_box_attack
from pytest_compsec.errors import MeasurementError, MissingExtraError
from tests.unit.attacks.gradient_models import (
    classifier,
    digits,
    exactly_robust,
    linear_problem,
    trained,
    training_gradients_left,
)

EPS: dict[Norm, float] = {"linf": 0.01, "l2": 0.04}


def settings(norm: Norm, **changes: Any) -> AttackSettings:
    return AttackSettings(Budget(EPS[norm], norm), **changes)


def right(module: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = module(inputs).argmax(1) == labels
    return found


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_white_box_attack_finds_a_linear_models_exact_robust_accuracy(
    norm: Norm, classes: int
) -> None:
    module, inputs, labels = linear_problem(classes)
    exact = exactly_robust(module, inputs, labels, EPS[norm], norm)
    assert 30 < int(exact.sum()) < 200  # of 300: neither hopeless nor trivial

    examples = white_box_attack(
        attacked(classifier(module, classes)), inputs, labels, settings(norm, restarts=classes)
    )

    assert torch.equal(right(module, inputs, labels) & right(module, examples, labels), exact)


def test_one_step_is_exact_for_two_classes() -> None:
    module, inputs, labels = linear_problem(2)
    exact = exactly_robust(module, inputs, labels, EPS["linf"], "linf")
    chosen = settings("linf", method="fgsm")
    examples = white_box_attack(attacked(classifier(module, 2)), inputs, labels, chosen)
    assert torch.equal(right(module, inputs, labels) & right(module, examples, labels), exact)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_queries_alone_come_near_and_never_below_the_exact_robust_accuracy(norm: Norm) -> None:
    module, inputs, labels = linear_problem(3)
    exact = exactly_robust(module, inputs, labels, EPS[norm], norm)
    budget = Budget(EPS[norm], norm)
    model = attacked(classifier(module, 3))

    examples = square_attack(
        lambda tried: model.logits(tried, 256), inputs, labels, budget, queries=300, seed=0
    )

    clean, held = right(module, inputs, labels), right(module, examples, labels)
    assert bool((held | ~exact).all())  # what cannot be fooled is not fooled
    found, possible = int((clean & ~held).sum()), int((clean & ~exact).sum())
    assert found >= 0.85 * possible


def test_random_noise_finds_far_less_than_the_query_attack() -> None:
    """The search searches: its best is not what as many random stripes would give."""
    module, inputs, labels = linear_problem(3)
    model, budget = attacked(classifier(module, 3)), Budget(EPS["linf"], "linf")
    fooled = [
        int((~right(module, examples, labels)).sum())
        for examples in (
            square_attack(
                lambda tried: model.logits(tried, 256),
                inputs, labels, budget, queries=queries, seed=0,
            )
            for queries in (1, 150)
        )
    ]  # fmt: skip
    assert fooled[1] > fooled[0] + 50


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(16,), (2, 4, 4), (3, 7, 5)])
def test_examples_stay_within_ball_and_range_for_any_shape(
    norm: Norm, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.rand((20, *shape), generator=generator)
    inputs[0], inputs[1] = 0.0, 1.0
    module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(inputs[0].numel(), 3)
    ).requires_grad_(False)
    labels = module(inputs).argmax(1)
    model, budget = attacked(classifier(module, 3)), Budget(EPS[norm], norm)
    made = (
        white_box_attack(model, inputs, labels, settings(norm, steps=5)),
        square_attack(
            lambda tried: model.logits(tried, 256), inputs, labels, budget, queries=20, seed=0
        ),
    )
    for examples in made:
        assert examples.shape == inputs.shape
        assert float(examples.min()) >= 0
        assert float(examples.max()) <= 1
        assert float(budget.distance(examples - inputs).max()) <= EPS[norm] * (1 + 1e-4)
        assert not torch.equal(examples, inputs)


def test_an_attack_that_breaks_its_budget_is_not_believed() -> None:
    samples = torch.full((2, 1, 2, 2), 0.5)
    with pytest.raises(MeasurementError, match="outside of its budget"):
        Budget(0.1, "linf").require_kept(samples, samples + 0.11)
    with pytest.raises(MeasurementError, match="outside of its budget"):
        Budget(0.6, "linf").require_kept(samples, samples + 0.55)
    with pytest.raises(MeasurementError, match="outside of its budget"):
        Budget(0.1, "l2").require_kept(samples, samples + torch.nan)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_same_seed_makes_the_same_examples_in_batches_of_any_size(norm: Norm) -> None:
    module, inputs, labels = linear_problem(4, samples=40)
    made = []
    for seed, batch_size in ((0, 40), (0, 7), (1, 40)):
        chosen = settings(norm, steps=3, queries=30, seed=seed, batch_size=batch_size)
        model = attacked(classifier(module, 4))
        white = white_box_attack(model, inputs, labels, chosen)
        queried = square_attack(
            functools.partial(model.logits, batch_size=batch_size),
            inputs, labels, chosen.budget, queries=30, seed=seed,
        )  # fmt: skip
        made.append((white, queried))
    assert torch.allclose(made[0][0], made[1][0], atol=1e-6)
    assert torch.allclose(made[0][1], made[1][1], atol=1e-6)
    assert not torch.allclose(made[0][1], made[2][1], atol=1e-6)


def test_attacks_leave_the_global_random_state_and_the_model_alone() -> None:
    module = trained().requires_grad_(True)
    _, _, images, labels = digits()
    before = torch.random.get_rng_state()
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    model = classifier(module, 10)
    attack_both(model, model, images[:30], labels[:30], settings("linf", steps=3, queries=5))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert not training_gradients_left(module)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_windows_shrink_and_peaks_have_length_one() -> None:
    shares = [window_share(at / 200) for at in range(200)]
    assert shares[0] == 0.8
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.01
    for size in ((3, 3), (4, 7), (1, 5)):
        found = peak(*size)
        assert float(found.norm()) == pytest.approx(1.0)
        assert float(found[size[0] // 2, size[1] // 2]) == float(found.max())


def test_a_missing_library_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "secmlt.adv.evasion.pgd", None)
    with pytest.raises(MissingExtraError, match=r"--no-deps secml-torch"):
        secml.require_library()
