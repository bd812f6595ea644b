"""Batch composition and the memory that it is planned for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.generation import batching
from pytest_compsec.generation.batching import (
    automatic_fit,
    is_out_of_memory,
    memory_budget,
    memory_need,
    plan_batches,
    shuffled_batches,
)


def test_every_prompt_is_in_one_batch_with_its_likes() -> None:
    lengths = [5, 90, 7, 6, 88, 5, 91]
    plan = plan_batches(lengths, 3)
    assert sorted(index for batch in plan for index in batch) == list(range(7))
    assert plan == [[6, 1, 4], [2, 3, 0], [5]]


def test_composition_depends_on_lengths_alone() -> None:
    lengths = [3, 3, 3, 9, 9, 3]
    assert plan_batches(lengths, 4) == plan_batches(list(lengths), 4) == [[3, 4, 0, 1], [2, 5]]


def test_a_long_prompt_does_not_make_all_batches_small() -> None:
    plan = plan_batches([1000] + [10] * 20, 16, lambda rows, width: rows * width <= 1000)
    assert [len(batch) for batch in plan] == [1, 16, 4]


def test_a_prompt_that_does_not_fit_is_tried_alone() -> None:
    assert plan_batches([50, 60], 8, lambda rows, width: False) == [[1], [0]]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_no_batch_size_below_one(batch_size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        plan_batches([1], batch_size)


def test_two_arms_with_nearly_the_same_free_memory_plan_the_same() -> None:
    assert memory_budget(20_000_000_000) == memory_budget(21_500_000_000)
    assert memory_budget(None) is None
    assert memory_budget(0) == 0


def test_need_counts_the_cache_of_keys_and_values(module: Any) -> None:
    need = memory_need(module)
    # 2 (keys, values) x 2 layers x 2 heads x 16 channels x 4 bytes
    assert need.per_token > 2 * 2 * 2 * 16 * 4
    assert need.per_row == 12 * 259
    half = memory_need(module.to(torch.bfloat16))
    assert half.per_token < need.per_token
    assert need.of_batch(8, 100, 64) == 8 * need.of_batch(1, 100, 64)


def test_less_memory_means_smaller_batches(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one_row = memory_need(module).of_batch(1, 100, 64)
    monkeypatch.setattr(batching, "free_memory", lambda device: 2 * 8 * one_row)
    small = plan_batches([100] * 40, 64, automatic_fit(module, "cpu", 64))
    monkeypatch.setattr(batching, "free_memory", lambda device: 2 * 32 * one_row)
    large = plan_batches([100] * 40, 64, automatic_fit(module, "cpu", 64))
    assert 1 < len(small[0]) <= 8 < len(large[0]) <= 32
    monkeypatch.setattr(batching, "free_memory", lambda device: None)
    assert len(plan_batches([100] * 40, 64, automatic_fit(module, "cpu", 64))) == 1


def test_workers_share_the_memory_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_system_available", lambda: 8_000)
    monkeypatch.setattr(batching, "_control_group_available", lambda: 6_000)
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)
    assert batching.free_memory("cpu") == 6_000
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    assert batching.free_memory("cpu") == 2_000


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("500\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 100\n")
    assert batching._control_group_available(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert batching._control_group_available(tmp_path) == 600


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), True),
        (RuntimeError("shape '[1, 2]' is invalid for input of size 3"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_shuffled_batches_hold_every_prompt_once_in_other_company() -> None:
    lengths = [5 + index % 40 for index in range(200)]
    plan = shuffled_batches(lengths, 64, seed=1)
    assert sorted(index for batch in plan for index in batch) == list(range(200))
    assert max(map(len, plan)) == 42
    assert plan == shuffled_batches(lengths, 64, seed=1)
    assert plan != shuffled_batches(lengths, 64, seed=2)
    usual = {frozenset(batch) for batch in plan_batches(lengths, 64)}
    assert not usual & {frozenset(batch) for batch in plan}


def test_shuffled_batches_respect_memory() -> None:
    lengths = [10, 90] * 20
    plan = shuffled_batches(lengths, 30, seed=3, fits=lambda rows, width: rows * width <= 300)
    assert all(len(batch) * max(lengths[at] for at in batch) <= 300 for batch in plan)
