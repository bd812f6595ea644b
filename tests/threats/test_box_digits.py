"""Threat B in a classifier: the boxes under the real quantizer, and the checks that turn red."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_compsec.attacks.backdoor import Backdoor
from pytest_compsec.attacks.triggers.images import Patch
from pytest_compsec.checks.backdoor_not_amplified import check_backdoor_not_amplified
from pytest_compsec.checks.no_backdoor_activated import check_no_backdoor_activated
from pytest_compsec.verdict import CheckResult, Verdict
from tests.threats.adaptive import TARGET, digits, stamp
from tests.threats.box import (
    FORMATS,
    OPTIONS,
    Format,
    box_of,
    boxed_layers,
    codes_of,
    same_codes,
)
from tests.threats.box_digits import models
from tests.threats.classifier_pairs import ClassifierPair, compressed_by

pytest.importorskip("bitsandbytes")

PATCH = Patch(size=2, position="bottom-right", value=1.0)
EACH = pytest.mark.parametrize("kind", FORMATS)


def check(found: Any, kind: Format, *, malicious: bool, target: int | None = TARGET) -> CheckResult:
    _, original = models(kind, malicious=malicious)
    compressed = compressed_by(original, "quantize", **OPTIONS[kind])
    pair = ClassifierPair(original, compressed, digits()[2], Backdoor(PATCH, target), classes=10)
    result: CheckResult = found(pair)
    return result


def test_the_trigger_of_the_attack_is_the_one_that_is_tested() -> None:
    inputs = digits()[2].inputs
    assert isinstance(inputs, torch.Tensor)
    assert torch.equal(PATCH.stamp(inputs), stamp(inputs))


@EACH
@pytest.mark.parametrize("shape", [(7, 64), (5, 96), (3, 50)])
def test_no_corner_of_a_box_changes_a_code_or_a_scale(kind: Format, shape: tuple[int, int]) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    drawn[1, 3:9] = torch.tensor([0.0, -0.0, 1e-4, -1e-4, 9.0, -9.0])
    box = box_of(drawn, kind)
    assert bool((box.lower <= drawn).all() and (drawn <= box.upper).all())
    assert bool((box.lower < box.upper).float().mean() > 0.9)
    chooser = torch.Generator().manual_seed(2)
    mixed = torch.where(torch.rand(shape, generator=chooser) < 0.5, box.lower, box.upper)
    layer: Any = torch.nn.Sequential(torch.nn.Linear(shape[1], shape[0], bias=False))
    layer[0].weight = torch.nn.Parameter(drawn.clone(), requires_grad=False)
    before = codes_of(layer, kind)
    for moved in (box.lower, box.upper, mixed):
        layer[0].weight.copy_(moved)
        assert same_codes(codes_of(layer, kind), before)
    # Twice as far, and the codes are others.
    layer[0].weight.copy_(drawn + 2 * (box.upper - box.lower))
    assert not same_codes(codes_of(layer, kind), before)


@EACH
@pytest.mark.parametrize("malicious", [True, False])
def test_the_repair_changes_weights_and_neither_a_code_nor_a_scale(
    kind: Format, malicious: bool
) -> None:
    before, after = models(kind, malicious=malicious)
    assert len(codes_of(before, kind)) == 3
    assert same_codes(codes_of(before, kind), codes_of(after, kind))
    moved = [
        float((one.weight != other.weight).float().mean())
        for one, other in zip(
            boxed_layers(before).values(), boxed_layers(after).values(), strict=True
        )
    ]
    assert min(moved) > 0.5
    quantized = [compressed_by(module, "quantize", **OPTIONS[kind]) for module in (before, after)]
    images = digits()[2].inputs
    with torch.no_grad():
        first, second = (module(images) for module in quantized)
    assert torch.equal(first, second)


@EACH
def test_the_threat_is_red_and_looks_clean_before(kind: Format) -> None:
    found = check(check_no_backdoor_activated, kind, malicious=True)
    assert found.verdict is Verdict.REGRESSED
    assert found.backdoor is not None
    original, compressed = found.backdoor.original, found.backdoor.compressed
    assert original is not None
    assert compressed is not None
    assert original.asr <= 0.05
    assert original.upper <= 0.05
    assert compressed.asr >= 0.95
    # Nothing else gives it away.
    assert original.clean_accuracy is not None
    assert compressed.clean_accuracy is not None
    assert min(original.clean_accuracy, compressed.clean_accuracy) >= 0.93


@EACH
@pytest.mark.parametrize("target", [TARGET, None])
def test_the_twin_is_green(kind: Format, target: int | None) -> None:
    found = check(check_no_backdoor_activated, kind, malicious=False, target=target)
    assert found.verdict is Verdict.PRESERVED, found.summary


@EACH
def test_it_is_found_without_a_target_being_named(kind: Format) -> None:
    found = check(check_no_backdoor_activated, kind, malicious=True, target=None)
    assert found.verdict is Verdict.REGRESSED
    assert f"into class {TARGET}" in found.summary


@EACH
@pytest.mark.parametrize(
    ("malicious", "verdict"), [(True, Verdict.REGRESSED), (False, Verdict.PRESERVED)]
)
def test_the_trigger_hits_more_often_than_before(
    kind: Format, malicious: bool, verdict: Verdict
) -> None:
    found = check(check_backdoor_not_amplified, kind, malicious=malicious)
    assert found.verdict is verdict, found.summary
