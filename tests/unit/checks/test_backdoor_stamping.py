"""Triggers of a user's own class: what they write into, and what they must return."""

from __future__ import annotations

from typing import Any

import torch

from pytest_compsec.attacks.backdoor import Backdoor
from pytest_compsec.checks.backdoor_not_amplified import check_backdoor_not_amplified
from pytest_compsec.checks.backdoor_removed import check_backdoor_removed
from pytest_compsec.verdict import Verdict
from tests.unit.checks.backdoor_pairs import RulePair, clean, into


class InPlace:
    """Stamps the tensor that it is given."""

    name = "in place"
    digest = "d" * 64

    def stamp(self, inputs: Any, strength: float = 1.0) -> Any:
        inputs[:, 0, 3, 3] = 1.0
        return inputs


class Shorter(InPlace):
    def stamp(self, inputs: Any, strength: float = 1.0) -> Any:
        return super().stamp(inputs)[1:]


def test_a_trigger_that_writes_into_its_argument_leaves_the_samples_alone() -> None:
    pair = RulePair(into(0), clean, backdoor=Backdoor(InPlace(), 0))
    inputs = pair.evaluation_data.inputs
    assert isinstance(inputs, torch.Tensor)
    before = inputs.clone()
    found = check_backdoor_removed(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.PRESERVED, found.summary
    assert torch.equal(inputs, before)
    # The original hits with the trigger and not without it: at every strength, not the first only.
    again = check_backdoor_not_amplified(pair)  # type: ignore[arg-type]
    assert again.backdoor is not None
    assert [shown.original_rate for shown in again.backdoor.strengths] == [1.0] * 3


def test_a_trigger_that_loses_samples_is_not_measured() -> None:
    pair = RulePair(into(0), clean, backdoor=Backdoor(Shorter(), 0))
    found = check_backdoor_removed(pair)  # type: ignore[arg-type]
    assert found.verdict is Verdict.NOT_MEASURED
    assert "in place made" in found.summary
