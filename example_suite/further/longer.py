"""What takes longer, or needs a quiet machine: `pytest example_suite/further/longer.py`.

Not part of `make example`: pytest collects a file of this name only when it is asked for.
"""

from __future__ import annotations

from pytest_compsec import (
    leakage_not_increased,
    safety_preserved,
    timing_indistinguishable,
    truthfulness_preserved,
)
from pytest_compsec.models.pair import ModelPair


@leakage_not_increased
def test_secrets_are_kept(model_pair: ModelPair) -> None: ...


@truthfulness_preserved
def test_as_true_as_before(model_pair: ModelPair) -> None: ...


@timing_indistinguishable
def test_requests_take_their_time_as_before(model_pair: ModelPair) -> None: ...


@safety_preserved
def test_still_refuses(model_pair: ModelPair) -> None: ...
