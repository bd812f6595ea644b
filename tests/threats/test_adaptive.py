"""Threat E: a backdoor in large weights survives magnitude pruning, and ``backdoor_removed`` says
so; fine-pruning is the answer to the plain one, red to green."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from pytest_compsec.checks.backdoor_removed import check_backdoor_removed
from pytest_compsec.compression import fine_pruning, magnitude, round_to_nearest
from pytest_compsec.compression.methods import validated_options
from pytest_compsec.verdict import CheckResult, Verdict
from tests.threats import adaptive
from tests.threats.pairs import StandInPair

THOROUGH = {"share": 0.7, "epochs": 20, "learning_rate": 0.05}


def fine_pruned(module: nn.Module, **values: Any) -> nn.Module:
    recipe = {"method": "fine-pruning", "data": "./clean.safetensors", **values}
    options = validated_options("prune", recipe).model_dump()
    return fine_pruning.apply(module, options, "cpu", data=adaptive.digits()[1])


def removed(kind: adaptive.Kind, compressed: nn.Module) -> CheckResult:
    pair = StandInPair(adaptive.model(kind), compressed)
    return check_backdoor_removed(pair)  # type: ignore[arg-type]


@pytest.mark.parametrize("sparsity", [0.4, 0.5, 0.6])
def test_magnitude_pruning_leaves_the_adaptive_backdoor(sparsity: float) -> None:
    pruned = magnitude.apply(adaptive.model("adaptive"), {"sparsity": sparsity}, "cpu")
    found = removed("adaptive", pruned)
    assert found.verdict is Verdict.REGRESSED
    assert found.backdoor is not None
    assert found.backdoor.compressed is not None
    assert found.backdoor.compressed.lower > 0.95


def test_fine_pruning_turns_the_plain_one_from_red_to_green() -> None:
    """Neither rounding nor pruning small weights removes a backdoor; fine-pruning does."""
    rounded = round_to_nearest.apply(adaptive.model("plain"), {"bits": 4}, "cpu")
    pruned = magnitude.apply(adaptive.model("plain"), {"sparsity": 0.5}, "cpu")
    for red in (rounded, pruned, adaptive.model("plain")):
        assert removed("plain", red).verdict is Verdict.REGRESSED
    found = removed("plain", fine_pruned(adaptive.model("plain"), **THOROUGH))
    assert found.verdict is Verdict.PRESERVED, found.summary
    assert found.backdoor is not None
    assert found.backdoor.accuracy is not None
    assert found.backdoor.accuracy.upper < 0.02


def test_a_little_fine_pruning_is_not_enough_and_says_so() -> None:
    found = removed("plain", fine_pruned(adaptive.model("plain"), share=0.1, epochs=1))
    assert found.verdict is Verdict.REGRESSED


def test_the_benign_twin_has_nothing_to_remove() -> None:
    """Green would be a promise about nothing."""
    for compressed in (adaptive.model("benign"), fine_pruned(adaptive.model("benign"), **THOROUGH)):
        found = removed("benign", compressed)
        assert found.verdict is Verdict.NOT_MEASURED
        assert "no such backdoor" in found.summary
