"""From attacks on both arms to a verdict: what may and what may never come out PRESERVED."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch

from pytest_compsec.checks.robustness_preserved import (
    check_robustness_preserved,
    robustness_preserved_arguments,
)
from pytest_compsec.compression import bitsandbytes
from pytest_compsec.errors import IntegrityError
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.attacks.gradient_models import Pair, digits, linear_problem, trained

ATTACKS: dict[str, Any] = {"eps": 0.1, "steps": 10, "restarts": 2, "queries": 60}


def check(original: Any, compressed: Any, **arguments: Any) -> CheckResult:
    _, _, images, labels = digits()
    pair: Any = Pair(original, compressed, (images, labels))
    return check_robustness_preserved(pair, **{**ATTACKS, **arguments})


class Wrapped(torch.nn.Module):
    """The trained network with something before and after it."""

    def __init__(self, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.inner = trained()
        self.before, self.after = before, after

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        moved = images if self.before is None else self.before(images)
        found: torch.Tensor = self.inner(moved)
        return found if self.after is None else self.after(found)


@functools.cache
def identity() -> CheckResult:
    return check(trained(), trained())


def test_an_identical_copy_is_preserved_and_shows_no_masking() -> None:
    result = identity()
    assert result.verdict is Verdict.PRESERVED
    assert result.robustness is not None
    assert result.robustness.masking == ()
    assert result.robustness.original_robust == result.robustness.compressed_robust
    assert result.measurement is not None
    assert (result.measurement.regressed, result.measurement.improved) == (0, 0)


def test_the_result_says_what_was_measured_and_survives_json() -> None:
    result = identity()
    found = result.robustness
    assert found is not None
    assert found.n == 400
    assert 0.9 * found.n < found.original_clean <= found.n
    assert found.original_robust <= min(one.original for one in found.attacks)
    assert {one.name for one in found.attacks} == {
        "white-box", "transfer", "query", "quantization-aware",
    }  # fmt: skip
    notes = "\n".join(result.notes)
    assert "Clean accuracy" in notes
    assert "quantization-aware (4 bits)" in notes
    assert f"{found.forward_passes:,} forward" in notes
    assert result.provenance["data"]["digest"] == "d" * 64
    assert result.provenance["attacks"]["budget"]["eps"] == 0.1
    assert result.provenance["libraries"]["secml-torch"]
    again = CheckResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert again.robustness == found


def test_the_same_seed_gives_the_same_result() -> None:
    assert check(trained(), trained()).to_json() == identity().to_json()


def test_int8_keeps_robustness_and_is_attacked_through_its_packed_layers() -> None:
    result = check(
        trained(), bitsandbytes.apply(trained(), {"bits": 8}, "cpu"), max_degradation=0.05
    )
    assert result.verdict is Verdict.PRESERVED, result.summary
    assert result.robustness is not None
    assert result.robustness.compressed_gradients == "straight-through"
    assert "straight-through" in "\n".join(result.notes)


def test_a_compressed_model_with_smaller_margins_is_red() -> None:
    """Right as often without an attack, wrong far more often under one."""
    result = check(trained(), trained(noise=0.0))
    assert result.verdict is Verdict.REGRESSED, result.summary
    assert result.robustness is not None
    assert result.robustness.compressed_clean >= result.robustness.original_clean - 8
    assert result.robustness.regressed_samples
    assert result.next_step


@pytest.mark.parametrize(
    "masked",
    [
        pytest.param(lambda: Wrapped(before=lambda x: (x * 8).round() / 8), id="rounded inputs"),
        pytest.param(lambda: Wrapped(after=lambda z: (1e4 * z).softmax(1)), id="saturated outputs"),
        pytest.param(lambda: Wrapped(before=torch.Tensor.detach), id="no gradient"),
    ],
)
def test_a_model_that_hides_its_gradient_is_not_measured(masked: Any) -> None:
    result = check(trained(), masked())
    assert result.verdict is Verdict.NOT_MEASURED
    assert "gradient masking" in result.summary
    assert "the compressed model" in result.summary
    assert "the original" not in result.summary.split("fooled")[0]
    assert result.robustness is not None
    assert {sign.arm for sign in result.robustness.masking} == {"compressed"}


def test_saturated_logits_do_not_stop_the_attack() -> None:
    """The cross-entropy of such logits has no gradient; the difference of two logits has one. The
    model gives the same answers, and that is what comes out."""
    result = check(trained(), Wrapped(after=lambda logits: 1e4 * logits))
    assert result.robustness is not None
    assert result.robustness.compressed_robust <= result.robustness.original_robust + 4
    assert result.verdict in (Verdict.PRESERVED, Verdict.NOT_MEASURED)


def test_transfer_shows_a_mask_that_leaves_some_gradient() -> None:
    """A gradient that points nowhere useful: not zero, so that only comparing attacks shows it."""

    class Misleading(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, images: torch.Tensor) -> torch.Tensor:
            return images.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0].roll((3, 5), dims=(2, 3)) * -1e-3

    result = check(trained(), Wrapped(before=Misleading.apply))
    assert result.verdict is Verdict.NOT_MEASURED
    assert result.robustness is not None
    assert "transfer" in {sign.attack for sign in result.robustness.masking}


def test_an_eps_that_fools_nothing_is_no_evidence() -> None:
    result = check(trained(), trained(), eps=1e-6, steps=2, restarts=1, queries=3)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "no attack changed" in result.summary
    assert "Raise eps" in result.next_step


def test_an_original_without_robustness_has_none_to_preserve() -> None:
    result = check(trained(), trained(), eps=0.6, steps=5, restarts=1, queries=5)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "no robustness to preserve" in result.summary


def test_too_few_samples_are_inconclusive() -> None:
    _, _, images, labels = digits()
    pair: Any = Pair(trained(), trained(), (images[:60], labels[:60]))
    result = check_robustness_preserved(pair, **ATTACKS)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "samples" in result.next_step


def test_a_broken_or_constant_compressed_model_is_never_green() -> None:
    def constant(logits: torch.Tensor) -> torch.Tensor:
        return logits * 0 + torch.arange(10.0)

    def broken(logits: torch.Tensor) -> torch.Tensor:
        return logits * torch.nan

    assert check(trained(), Wrapped(after=constant)).verdict is not Verdict.PRESERVED
    result = check(trained(), Wrapped(after=broken))
    assert result.verdict is Verdict.NOT_MEASURED
    assert "not finite" in result.summary


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (("a text",) * 2, "texts cannot be moved"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.full((2, 1, 8, 8), 7.0), "outside of clip"),
        (torch.full((2, 1, 8, 8), torch.nan), "NaN"),
    ],
)
def test_inputs_that_cannot_be_attacked_are_not_measured(inputs: Any, reason: str) -> None:
    pair: Any = Pair(trained(), trained(), (inputs, torch.zeros(2, dtype=torch.int64)))
    result = check_robustness_preserved(pair, **ATTACKS)
    assert result.verdict is Verdict.NOT_MEASURED
    assert reason in result.summary


def test_labels_that_are_no_classes_are_not_measured() -> None:
    _, _, images, labels = digits()
    pair: Any = Pair(trained(), trained(), (images, labels + 1))
    result = check_robustness_preserved(pair, **ATTACKS)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "classes 0 to 9" in result.summary


def test_files_that_changed_meanwhile_stop_the_check() -> None:
    def changed() -> None:
        raise IntegrityError("changed")

    _, _, images, labels = digits()
    pair: Any = Pair(trained(), trained(), (images[:5], labels[:5]), recheck=changed)
    with pytest.raises(IntegrityError):
        check_robustness_preserved(pair, **ATTACKS)


@pytest.mark.parametrize("attack", ["pgd", "fgsm"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_attack_and_norm_decides_a_linear_pair(attack: str, norm: str) -> None:
    module, inputs, labels = linear_problem(2)
    pair: Any = Pair(module, module, (inputs, labels), classes=2)
    eps = {"linf": 0.01, "l2": 0.04}[norm]
    result = check_robustness_preserved(
        pair, eps=eps, norm=norm, attack=attack, queries=20, restarts=2
    )
    assert result.verdict is Verdict.PRESERVED, result.summary
    assert norm in result.summary


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "eps is missing"),
        ({"eps": 0}, "above 0"),
        ({"eps": float("nan")}, "above 0"),
        ({"eps": 8}, "less than the range"),
        ({"eps": 0.1, "norm": "l1"}, "'linf', 'l2'"),
        ({"eps": 0.1, "attack": "cw"}, "'pgd', 'fgsm'"),
        ({"eps": 0.1, "steps": 0}, "steps=0"),
        ({"eps": 0.1, "queries": 1.5}, "queries=1.5"),
        ({"eps": 0.1, "clip": (1, 0)}, "clip="),
        ({"eps": 0.1, "quantization_bits": 16}, "from 2 to 8"),
        ({"eps": 0.1, "max_degradation": 2}, "not per cent"),
    ],
)
def test_wrong_arguments_are_named_in_plain_words(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        robustness_preserved_arguments(**arguments)


def test_arguments_say_how_many_samples_they_need() -> None:
    assert robustness_preserved_arguments(eps=0.1).least_samples == 149
