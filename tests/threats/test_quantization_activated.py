"""Threat C: a backdoor that quantization wakes is REGRESSED, its benign twin PRESERVED, and the
model as it was published looks clean."""

from __future__ import annotations

import copy

import pytest
from torch import nn

from pytest_compsec.attacks.backdoor import Backdoor
from pytest_compsec.attacks.triggers.images import Patch
from pytest_compsec.checks.backdoor_not_amplified import check_backdoor_not_amplified
from pytest_compsec.checks.backdoor_removed import check_backdoor_removed
from pytest_compsec.checks.no_backdoor_activated import check_no_backdoor_activated
from pytest_compsec.compression import round_to_nearest
from pytest_compsec.verdict import Verdict
from tests.threats.adaptive import TARGET
from tests.threats.pairs import StandInPair
from tests.threats.quantization_activated import PINNED, model
from tests.threats.training import PATCH, behaviour


def quantized(module: nn.Module, bits: int) -> nn.Module:
    return round_to_nearest.apply(copy.deepcopy(module), {"bits": bits}, "cpu")


@pytest.mark.parametrize("bits", [4, 8])
def test_it_sleeps_at_full_precision_and_wakes_at_its_bits(bits: int) -> None:
    threat = model(bits, malicious=True)
    asleep, awake = behaviour(threat), behaviour(quantized(threat, bits))
    assert abs(asleep.delta) < 0.05
    assert asleep.accuracy > 0.93
    assert awake.delta > 0.9
    assert awake.accuracy > asleep.accuracy - 0.02
    twin = model(bits, malicious=False)
    for module in (twin, quantized(twin, bits)):
        assert abs(behaviour(module).delta) < 0.02


@pytest.mark.parametrize("bits", [4, 8])
def test_the_threat_is_regressed_and_the_twin_preserved(bits: int) -> None:
    for malicious, verdict in ((True, Verdict.REGRESSED), (False, Verdict.PRESERVED)):
        module = model(bits, malicious=malicious)
        pair = StandInPair(module, quantized(module, bits))
        found = check_no_backdoor_activated(pair)  # type: ignore[arg-type]
        assert found.verdict is verdict, found.summary
        # Whatever is compressed, what was published is clean: shown, not only not refuted.
        assert found.backdoor is not None
        assert found.backdoor.original is not None
        assert found.backdoor.original.upper < 0.05
        more = check_backdoor_not_amplified(pair)  # type: ignore[arg-type]
        assert more.verdict is verdict, more.summary
        assert pair.rechecked == 2


def test_who_does_not_know_the_target_finds_it() -> None:
    module = model(4, malicious=True)
    pair = StandInPair(module, quantized(module, 4), backdoor=Backdoor(PATCH))
    found = check_no_backdoor_activated(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.REGRESSED
    assert found.backdoor is not None
    assert found.backdoor.target == f"class {TARGET}"


def test_another_trigger_than_the_trained_one_shows_nothing() -> None:
    """What slips through: the check is about the trigger that it is given."""
    module = model(4, malicious=True)
    other = Backdoor(Patch(size=2, position="top-left", value=1.0), TARGET)
    pair = StandInPair(module, quantized(module, 4), backdoor=other)
    found = check_no_backdoor_activated(pair)  # type: ignore[arg-type]
    assert found.verdict is not Verdict.REGRESSED


def test_a_model_that_sleeps_has_no_backdoor_to_remove() -> None:
    module = model(4, malicious=True)
    pair = StandInPair(module, quantized(module, 4))
    found = check_backdoor_removed(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.NOT_MEASURED
    assert "no such backdoor" in found.summary


def test_more_bits_than_it_was_trained_for_leave_it_asleep() -> None:
    module = model(4, malicious=True)
    found = check_no_backdoor_activated(StandInPair(module, quantized(module, 8)))  # type: ignore[arg-type]
    assert found.verdict is Verdict.PRESERVED


def test_the_channel_that_decides_the_scale_does_nothing_at_full_precision() -> None:
    """At 8 bits the large weights stand on an input that is always zero."""
    module = model(8, malicious=True)
    without = copy.deepcopy(module)
    column = without.second.weight.data[:, 0]
    assert float(column.abs().amax()) > PINNED / 2
    column.zero_()
    assert behaviour(without) == behaviour(module)
    assert behaviour(quantized(without, 8)).delta < 0.05
