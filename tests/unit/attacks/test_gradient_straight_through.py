"""Gradients of compressed classifiers: the real answer, and a way for the attack to go."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_compsec.attacks.gradient.budget import AttackSettings, Budget
from pytest_compsec.attacks.gradient.quantization_aware import simulated_quantized
from pytest_compsec.attacks.gradient.straight_through import attacked, dense_copy
from pytest_compsec.attacks.gradient.white_box import white_box_attack
from pytest_compsec.compression import bitsandbytes
from tests.unit.attacks.gradient_models import classifier, digits, trained

INT8 = {"bits": 8}
NF4 = {"bits": 4, "type": "nf4", "double_quant": False}


def quantized(options: dict[str, Any]) -> Any:
    return bitsandbytes.apply(trained(), options, "cpu")


@pytest.mark.parametrize("options", [INT8, NF4])
def test_packed_layers_answer_for_themselves_and_lend_the_gradient_of_what_they_stand_for(
    options: dict[str, Any],
) -> None:
    _, _, images, labels = digits()
    model = classifier(quantized(options), 10)
    target = attacked(model)
    assert target.gradients == "straight-through"

    inputs = images[:64].clone().requires_grad_()
    found = target.forward(inputs)
    assert torch.equal(found.detach(), model.logits(images[:64]))  # bit for bit, the real module's

    found.sum().backward()  # type: ignore[no-untyped-call]
    dense = dense_copy(model)
    other = images[:64].clone().requires_grad_()
    dense.forward(other).sum().backward()  # type: ignore[no-untyped-call]
    assert inputs.grad is not None
    assert other.grad is not None
    assert torch.equal(inputs.grad, other.grad)
    assert not bool(target.without_gradient(images, labels, 256).any())
    # The copy is what the codes stand for, and not the original.
    close = (dense.logits(images) - model.logits(images)).abs().max()
    assert float(close) < 0.15 * float(model.logits(images).abs().max())


def test_an_attack_through_the_copy_is_about_as_strong_as_on_the_original() -> None:
    _, _, images, labels = digits()
    settings = AttackSettings(Budget(0.12, "linf"), steps=10, restarts=2)
    rates = []
    for module in (trained(), quantized(INT8)):
        target = attacked(classifier(module, 10))
        examples = white_box_attack(target, images[:200], labels[:200], settings)
        rates.append(float((target.logits(examples, 256).argmax(1) != labels[:200]).float().mean()))
    assert rates[0] > 0.3
    assert abs(rates[0] - rates[1]) < 0.05


def test_dense_models_have_gradients_of_their_own() -> None:
    assert attacked(classifier(trained(), 10)).gradients == "own"


def test_a_module_that_passes_no_gradient_is_found_out() -> None:
    class Detached(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = trained()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner(images.detach())
            return found

    _, _, images, labels = digits()
    target = attacked(classifier(Detached(), 10))
    assert bool(target.without_gradient(images[:20], labels[:20], 8).all())


def test_the_simulated_model_has_rounded_weights_and_the_original_keeps_its_own() -> None:
    module = trained()
    before = module[1].weight.clone()
    made = simulated_quantized(classifier(module, 10), bits=3)
    assert made.note == ""
    simulated: Any = made.model.module
    assert all(len(row.unique()) <= 2**3 for row in simulated[1].weight)
    assert torch.equal(module[1].weight, before)
    again = simulated_quantized(made.model, bits=3)
    assert "on that grid already" in again.note
