"""Which prompts are answered together, and how many fit into memory.

Composition depends on the lengths of the prompts and the batch size alone, so that the two arms
of a pair answer in the same company: rounding differs with the shape of a batch, and that must
not look like a difference between the arms.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pytest_compsec.worker_devices import bytes_within_share, memory_share

#: More rows bring no more speed on the device, only later progress and more to lose.
CPU_ROWS = 64
ACCELERATOR_ROWS = 256

_SHARE_OF_FREE = 0.5


@dataclasses.dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a running batch needs, estimated from above.

    ``per_token``: for each row and position, prompt or new; ``per_row``: the logits of a row;
    ``per_square``: for each row and pair of prompt positions.
    """

    per_token: int
    per_row: int
    per_square: int

    def of_batch(self, rows: int, width: int, new_tokens: int) -> int:
        """Bytes for ``rows`` prompts padded to ``width`` tokens, with ``new_tokens`` to come."""
        tokens = self.per_token * (width + new_tokens)
        return rows * (tokens + self.per_row + self.per_square * width * width)


def plan_batches(
    lengths: Sequence[int],
    batch_size: int,
    fits: Callable[[int, int], bool] = lambda rows, width: True,
) -> list[list[int]]:
    """Indices into ``lengths``, batch by batch: longest first, so that memory that does not
    suffice is found at once, and of like length, so that there is little padding.

    ``fits(rows, width)`` may close a batch before ``batch_size``; every batch has at least one
    row. Equal lengths keep their order.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda at: (-lengths[at], at)):
        if batches and len(batches[-1]) < batch_size:
            width = lengths[batches[-1][0]]
            if fits(len(batches[-1]) + 1, width):
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches


def shuffled_batches(
    lengths: Sequence[int],
    batch_size: int,
    seed: int,
    fits: Callable[[int, int], bool] = lambda rows, width: True,
) -> list[list[int]]:
    """As :func:`plan_batches`, but in a random order and of about two thirds of the size: other
    company and other padding for every row, so that rounding differs as much as it ever will."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    order = list(range(len(lengths)))
    random.Random(seed).shuffle(order)
    most = max(1, 2 * batch_size // 3)
    batches: list[list[int]] = []
    for index in order:
        if batches and len(batches[-1]) < most:
            width = max(lengths[index], *(lengths[other] for other in batches[-1]))
            if fits(len(batches[-1]) + 1, width):
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches


def row_limit(device: str) -> int:
    """The most rows of a batch on a device, whatever its memory."""
    return CPU_ROWS if device.startswith("cpu") else ACCELERATOR_ROWS


def automatic_fit(
    module: Any, device: str, new_tokens: int, drafted: bool = False
) -> Callable[[int, int], bool]:
    """``fits`` for :func:`plan_batches` from the memory that is free now. ``drafted``: logits for
    as many positions as there may be new tokens are wanted at once."""
    budget = memory_budget(free_memory(device))
    if budget is None:
        return lambda rows, width: True
    need = memory_need(module)
    if drafted:
        need = dataclasses.replace(need, per_row=need.per_row * new_tokens)
    return lambda rows, width: need.of_batch(rows, width, new_tokens) <= budget


def memory_budget(free: int | None) -> int | None:
    """A power of two: two arms of which one leaves a little less free plan the same batches."""
    if free is None:
        return None
    share = int(free * _SHARE_OF_FREE)
    return 1 << (share.bit_length() - 1) if share > 0 else 0


def memory_need(module: Any) -> MemoryNeed:
    """From the config: layers, heads, widths, vocabulary. Unknown sizes count as usual ones."""
    config = module.config
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    hidden = _size(text, "hidden_size", 1024)
    heads = _size(text, "num_attention_heads", 16)
    kv_heads = _size(text, "num_key_value_heads", heads)
    head_dim = _size(text, "head_dim", max(1, hidden // heads))
    layers = _size(text, "num_hidden_layers", 24)
    intermediate = _size(text, "intermediate_size", 4 * hidden)
    item = torch.empty(0, dtype=_float_type(module)).element_size()
    cache = 2 * layers * kv_heads * head_dim * item
    # One layer at a time: residuals, queries, keys and values repeated for all heads, the MLP.
    # Four bytes an item, because norms and quantized layers work in float32.
    at_work = 4 * (6 * hidden + 4 * heads * head_dim + 3 * intermediate)
    scores = 4 * heads if getattr(text, "_attn_implementation", None) == "eager" else 0
    return MemoryNeed(
        per_token=cache + cache // layers + at_work,
        per_row=(item + 8) * _size(text, "vocab_size", 50_000),
        per_square=8 + 2 * scores,
    )


def free_memory(device: str) -> int | None:
    """Bytes that a batch could use on the device now; None when nothing is known."""
    if device.startswith("cuda") and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(device)
        mine = torch.cuda.memory_allocated(device)
        held = torch.cuda.memory_reserved(device) - mine
        return bytes_within_share(int(free) + held, int(total), mine, memory_share(device))
    if not device.startswith("cpu"):
        return None
    known = [size for size in (_system_available(), _control_group_available()) if size is not None]
    if not known:
        return None
    # Workers of pytest-xdist see the same free memory and take it at the same time.
    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    return min(known) // max(1, int(workers) if workers.isdigit() else 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in text
        for sign in (
            "out of memory",
            "can't allocate memory",
            "cannot allocate memory",
            "not enough memory",
            "cublas_status_alloc_failed",
        )
    )


def release_memory() -> None:
    """Give back what a failed batch held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _size(config: Any, name: str, otherwise: int) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and value > 0 else otherwise


def _float_type(module: Any) -> torch.dtype:
    kind = getattr(module, "dtype", None)
    return kind if isinstance(kind, torch.dtype) and kind.is_floating_point else torch.float32


def _system_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_group_available(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's own limit leaves (control groups version 2, then 1)."""
    for limit_name, usage_name, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit = int((root / limit_name).read_text(encoding="ascii"))
            usage = int((root / usage_name).read_text(encoding="ascii"))
            statistics = (root / usage_name).with_name("memory.stat").read_text(encoding="ascii")
        except (OSError, ValueError):  # absent, or "max"
            continue
        # Page cache of files (the checkpoint just read) counts as used and is given back.
        cached = sum(
            int(line.split()[1])
            for line in statistics.splitlines()
            if line.startswith(reclaimable + " ")
        )
        return max(0, limit - usage + cached)
    return None
