"""What is measured once in a run: shared by pairs that would find the same, and by no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_compsec.models.pinning import pin
from pytest_compsec.suite import Suite, open_suite
from tests.unit.models.tiny_files import write_suite

CONFIG = """\
version: 1
models:
  assistant:
    original: {source: ./model}
    compressed:
      half: {source: ./other, dtype: float16}
      brain: {source: ./other, dtype: bfloat16}
      again: {source: ./other, dtype: bfloat16}
  polite:
    system: Be polite.
    original: {source: ./model}
    compressed:
      brain: {source: ./other, dtype: bfloat16}
"""


def found(suite: Suite, pair: str, key: str = "times") -> str:
    """The name of the pair on which it was measured."""
    return suite.pair(pair).once(key, lambda: pair)


def test_variants_of_the_same_weights_share_only_what_they_would_both_find(tmp_path: Path) -> None:
    path = write_suite(tmp_path, CONFIG)
    pin(path)
    with open_suite(path) as suite:
        half, brain = suite.pair("assistant-half"), suite.pair("assistant-brain")
        assert half.compressed_arm.weights_digest == brain.compressed_arm.weights_digest
        assert found(suite, "assistant-half") == "assistant-half"
        assert found(suite, "assistant-brain") == "assistant-brain", "another float type"
        assert found(suite, "assistant-again") == "assistant-brain", "the same in all"
        assert found(suite, "polite-brain") == "polite-brain", "another system prompt"
        assert found(suite, "assistant-again", "errors") == "assistant-again"
        # Of one arm alone: the original of all variants, and not that of the other model.
        one = half.once_for(half.original_arm, "nlls", lambda: "measured")
        assert brain.once_for(brain.original_arm, "nlls", lambda: "anew") == one
        polite = suite.pair("polite-brain")
        assert polite.once_for(polite.original_arm, "nlls", lambda: "anew") == "anew"


def test_another_device_is_measured_anew_and_so_is_another_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_suite(tmp_path, CONFIG)
    pin(path)
    devices = {"half": "cuda:0", "brain": "cuda:1", "again": "cpu"}
    monkeypatch.setattr(
        Suite, "placement", lambda self, arm: (devices.get(arm.variant, "cpu"), "float16")
    )
    monkeypatch.setattr(Suite, "identity", lambda self, arm: "equal GPUs answer alike")
    with open_suite(path) as suite:
        for variant in devices:
            assert found(suite, f"assistant-{variant}") == f"assistant-{variant}"
