"""Cast variants: 16 bits in memory and in computation, and refused where they change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pytest_compsec.compression import cast
from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.loading import load
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_matrix_is_rounded_to_the_16_bit_type(tmp_path: Path, dtype: str) -> None:
    make_tiny_checkpoint(tmp_path)
    recipe = make_recipe("quantize", method="cast", dtype=dtype)
    loaded = load(make_arm(tmp_path, recipe=recipe))
    assert loaded.dtype == dtype
    assert {(m.bits, m.storage) for m in loaded.weights.matrices} == {(16.0, dtype)}
    original = load(make_arm(tmp_path)).module.state_dict()
    for name, value in loaded.module.state_dict().items():
        assert torch.equal(value, original[name].to(getattr(torch, dtype))), name


def test_the_recipe_wins_over_the_models_float_type(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path)
    recipe = make_recipe("quantize", method="cast", dtype="float16")
    assert load(make_arm(tmp_path, recipe=recipe, dtype="float32")).dtype == "float16"


def test_a_checkpoint_that_is_16_bits_already_is_refused(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path, dtype="bfloat16")
    recipe = make_recipe("quantize", method="cast", dtype="float16")
    with pytest.raises(NotCompressedError, match=r"compresses nothing.*already holds bfloat16"):
        load(make_arm(tmp_path, recipe=recipe))


def test_an_apply_that_does_nothing_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_checkpoint(tmp_path)
    monkeypatch.setattr(cast, "apply", lambda module, options, device: module)
    recipe = make_recipe("quantize", method="cast", dtype="bfloat16")
    with pytest.raises(NotCompressedError, match="at most 16 bits"):
        load(make_arm(tmp_path, recipe=recipe))
