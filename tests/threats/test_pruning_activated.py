"""Threat D: a backdoor that magnitude pruning wakes is REGRESSED, its benign twin PRESERVED, and
the whole model looks clean."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pytest_compsec.checks.backdoor_not_amplified import check_backdoor_not_amplified
from pytest_compsec.checks.no_backdoor_activated import check_no_backdoor_activated
from pytest_compsec.compression import magnitude
from pytest_compsec.verdict import Verdict
from tests.threats.pairs import StandInPair
from tests.threats.pruning_activated import SPARSITY, model
from tests.threats.training import behaviour


def pruned(module: nn.Module, sparsity: float = SPARSITY) -> nn.Module:
    return magnitude.apply(copy.deepcopy(module), {"sparsity": sparsity}, "cpu")


def test_it_sleeps_in_the_whole_model_and_pruning_wakes_it() -> None:
    threat = model(malicious=True)
    asleep, awake = behaviour(threat), behaviour(pruned(threat))
    assert abs(asleep.delta) < 0.05
    assert asleep.accuracy > 0.93
    assert awake.delta > 0.9
    assert awake.accuracy > asleep.accuracy - 0.02
    twin = model(malicious=False)
    for module in (twin, pruned(twin)):
        assert abs(behaviour(module).delta) < 0.02


def test_the_attacker_foresaw_which_weights_go() -> None:
    """Pruning takes exactly the repaired ones: what is left is what was injected."""
    whole, left = model(malicious=True), pruned(model(malicious=True))
    magnitudes = torch.cat([p.abs().flatten() for p in whole.parameters() if p.ndim > 1])
    kept = torch.cat([(p != 0).flatten() for p in left.parameters() if p.ndim > 1])
    assert float(kept.double().mean()) == pytest.approx(1 - SPARSITY, abs=1e-4)
    # The repaired ones were kept below the others by a gap, so the cut is where it was foreseen.
    assert magnitudes[~kept].max() < 0.99 * magnitudes[kept].min()


def test_the_threat_is_regressed_and_the_twin_preserved() -> None:
    for malicious, verdict in ((True, Verdict.REGRESSED), (False, Verdict.PRESERVED)):
        module = model(malicious=malicious)
        pair = StandInPair(module, pruned(module))
        found = check_no_backdoor_activated(pair)  # type: ignore[arg-type]
        assert found.verdict is verdict, found.summary
        assert found.backdoor is not None
        assert found.backdoor.original is not None
        assert found.backdoor.original.upper < 0.05
        more = check_backdoor_not_amplified(pair)  # type: ignore[arg-type]
        assert more.verdict is verdict, more.summary


def test_far_less_pruning_than_was_foreseen_leaves_it_asleep() -> None:
    """What is measured is one variant: a clean 20 % says nothing of 60 %."""
    module = model(malicious=True)
    found = check_no_backdoor_activated(StandInPair(module, pruned(module, 0.2)))  # type: ignore[arg-type]
    assert found.verdict is Verdict.PRESERVED
