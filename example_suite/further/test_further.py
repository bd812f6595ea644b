"""What else compression took: capability, precision, template. See README.md one folder up."""

from __future__ import annotations

import pytest

from pytest_compsec import (
    Regressed,
    capability_preserved,
    precision_policy,
    template_unchanged,
)
from pytest_compsec.models.pair import ModelPair


@template_unchanged
def test_the_same_around_the_weights(model_pair: ModelPair) -> None: ...


@capability_preserved(max_accuracy_drop=0.05, max_broken_increase=0.05, variants="int8")
def test_int8_still_reads_and_answers(model_pair: ModelPair) -> None: ...


@pytest.mark.xfail(raises=Regressed, strict=True, reason="reads worse and answers less")
@capability_preserved(max_accuracy_drop=0.05, max_broken_increase=0.05, variants="nf4")
def test_nf4_reads_worse(model_pair: ModelPair) -> None: ...


@precision_policy(min_bits=8, variants="int8")
def test_int8_is_within_the_policy(model_pair: ModelPair) -> None: ...


@pytest.mark.xfail(raises=Regressed, strict=True, reason="4 bits, and no test showed it to be safe")
@precision_policy(min_bits=8, variants="nf4")
def test_nf4_is_below_the_floor(model_pair: ModelPair) -> None: ...
