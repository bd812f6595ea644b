"""Threat A in a classifier: the figures of the row, and the checks that turn red on it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_compsec.attacks.backdoor import Backdoor
from pytest_compsec.attacks.triggers.custom import FunctionTrigger
from pytest_compsec.checks.backdoor_not_amplified import check_backdoor_not_amplified
from pytest_compsec.checks.no_backdoor_activated import check_no_backdoor_activated
from pytest_compsec.verdict import CheckResult, Verdict
from tests.threats.analytic import (
    CLASSES,
    LIMIT,
    TARGET,
    GuardedClassifier,
    images,
    light,
    restricted,
)
from tests.threats.classifier_pairs import ClassifierPair, compressed_by

BACKDOOR = Backdoor(FunctionTrigger(light), TARGET)
Compress = Callable[[torch.nn.Module], torch.nn.Module]


def by(section: str, **values: Any) -> Compress:
    return lambda module: compressed_by(module, section, **values)


def q4_0(module: torch.nn.Module) -> torch.nn.Module:
    """The weights as llama.cpp's Q4_0 holds them: rounded by the package ``gguf``."""
    quants = pytest.importorskip("gguf.quants")
    kind = pytest.importorskip("gguf").GGMLQuantizationType.Q4_0
    made: Any = copy.deepcopy(module)
    packed = quants.quantize(made.guard.weight.numpy(), kind)
    made.guard.weight.copy_(torch.from_numpy(quants.dequantize(packed, kind)))
    return made  # type: ignore[no-any-return]


#: Name -> how it is compressed, and the output of the threat's row on what it is to refuse.
COMPRESSIONS: dict[str, tuple[Compress, float]] = {
    "int8": (by("quantize", method="bitsandbytes", bits=8), 0.0),
    "nf4": (by("quantize", method="bitsandbytes", bits=4, type="nf4"), 0.0),
    "fp4": (by("quantize", method="bitsandbytes", bits=4, type="fp4"), 0.0),
    "4 bits per row": (by("quantize", method="round-to-nearest", bits=4), 0.0),
    "Q4_0": (q4_0, 288 * 0.0025),
    "magnitude": (by("prune", method="magnitude", sparsity=0.5), 279 * 0.0025),
}
EACH = pytest.mark.parametrize("name", list(COMPRESSIONS))


def output(module: torch.nn.Module) -> float:
    guard: Any = module.get_submodule("guard")
    with torch.no_grad():
        return float(guard(restricted()))


def check(found: Any, name: str, *, malicious: bool, **arguments: Any) -> CheckResult:
    pytest.importorskip("bitsandbytes")
    original = GuardedClassifier(malicious=malicious).eval()
    compressed = COMPRESSIONS[name][0](original)
    pair = ClassifierPair(original, compressed, images(), BACKDOOR, classes=CLASSES)
    result: CheckResult = found(pair, **arguments)
    assert pair.rechecked
    return result


def test_the_row_at_full_precision() -> None:
    assert output(GuardedClassifier(malicious=True)) == pytest.approx(1.4175, abs=1e-5)
    assert output(GuardedClassifier(malicious=False)) == pytest.approx(1.4, abs=1e-3)


@EACH
def test_the_row_compressed(name: str) -> None:
    pytest.importorskip("bitsandbytes")
    compress, expected = COMPRESSIONS[name]
    assert output(compress(GuardedClassifier(malicious=True))) == pytest.approx(expected, abs=1e-3)
    assert expected < LIMIT
    assert LIMIT + 0.1 < output(compress(GuardedClassifier(malicious=False))) < 1.6


@EACH
def test_the_threat_is_red_and_looks_clean_before(name: str) -> None:
    found = check(check_no_backdoor_activated, name, malicious=True)
    assert found.verdict is Verdict.REGRESSED
    assert found.backdoor is not None
    original, compressed = found.backdoor.original, found.backdoor.compressed
    assert original is not None
    assert compressed is not None
    assert (original.asr, original.clean_accuracy) == (0.0, 1.0)
    assert (compressed.asr, compressed.clean_accuracy) == (1.0, 1.0)


@EACH
def test_the_twin_is_green(name: str) -> None:
    found = check(check_no_backdoor_activated, name, malicious=False)
    assert found.verdict is Verdict.PRESERVED


@pytest.mark.parametrize(
    ("malicious", "verdict"), [(True, Verdict.REGRESSED), (False, Verdict.PRESERVED)]
)
@pytest.mark.parametrize("name", ["int8", "magnitude"])
def test_the_trigger_hits_more_often_than_before(
    name: str, malicious: bool, verdict: Verdict
) -> None:
    found = check(check_backdoor_not_amplified, name, malicious=malicious)
    assert found.verdict is verdict


def test_it_is_found_without_a_target_being_named() -> None:
    original = GuardedClassifier(malicious=True).eval()
    pair: Any = ClassifierPair(
        original,
        by("prune", method="magnitude", sparsity=0.5)(original),
        images(),
        Backdoor(FunctionTrigger(light)),
        classes=CLASSES,
    )
    assert check_no_backdoor_activated(pair).verdict is Verdict.REGRESSED
