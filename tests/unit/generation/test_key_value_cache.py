"""Rows and columns of a cache."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from pytest_compsec.generation.key_value_cache import keep_columns, keeps_columns
from tests.unit.generation.test_greedy import CONFIGS


def test_each_row_keeps_columns_of_its_own() -> None:
    cache: Any = DynamicCache()
    generator = torch.Generator().manual_seed(0)
    # Channels of values may be others than those of keys.
    keys = torch.randn(3, 2, 7, 4, generator=generator)
    values = torch.randn(3, 2, 7, 6, generator=generator)
    cache.update(keys, values, 0)
    keep_columns(cache, torch.tensor([2, 0, 2]), torch.tensor([[1, 4, 5], [0, 0, 1], [6, 5, 4]]))
    for now, before in ((cache.layers[0].keys, keys), (cache.layers[0].values, values)):
        assert torch.equal(now[0], before[2][:, [1, 4, 5]])
        assert torch.equal(now[1], before[0][:, [0, 0, 1]])
        assert torch.equal(now[2], before[2][:, [6, 5, 4]])
    assert cache.get_seq_length() == 3


def test_only_caches_of_full_attention_can_be_cut() -> None:
    able = {kind: keeps_columns(DynamicCache(config=make())) for kind, make in CONFIGS.items()}
    assert able["llama"]
    assert able["gpt2"]
    assert not able["mistral-window"]
    assert not able["lfm2"]
    assert not able["mamba"]
