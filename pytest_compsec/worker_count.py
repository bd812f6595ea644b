"""How many workers ``pytest -n auto`` starts in a project that compares models.

One for each visible GPU. On a machine without one, as many as there are pairs, cores, and room in
memory for a model each: a worker holds one arm at a time where memory is short.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_compsec.worker_devices import usable_gpus

if TYPE_CHECKING:
    from pytest_compsec.models.lock import ArmPin, Lock

#: The GPUs that the workers of this run share.
GPUS: pytest.StashKey[tuple[str, ...]] = pytest.StashKey()
#: Why ``-n auto`` started as many workers as it did.
REASON: pytest.StashKey[str] = pytest.StashKey()

_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
#: Of a weight in the checkpoints in use that are not compressed.
_STORED_BYTES = 2
#: Bits for a weight of the most compact GGUF files in use.
_LEAST_GGUF_BITS = 2.0


@dataclasses.dataclass(frozen=True)
class Count:
    workers: int
    reason: str


def config_of(config: pytest.Config) -> Path | None:
    """The compsec.yaml with which a project opts in as a whole: one at the rootdir, or the one
    that an option names. Tests are not collected yet."""
    from pytest_compsec.options import read_settings
    from pytest_compsec.suite import CONFIG_NAME

    at_root = config.rootpath / CONFIG_NAME
    return read_settings(config).config or (at_root if at_root.is_file() else None)


def gpus_of(config: pytest.Config) -> tuple[str, ...]:
    """The GPUs for the workers of this run, looked for once."""
    if GPUS not in config.stash:
        config.stash[GPUS] = usable_gpus(os.environ)
    return config.stash[GPUS]


def auto_workers(config: pytest.Config) -> int | None:
    """The number of workers for ``-n auto``; None leaves it to pytest-xdist."""
    path = config_of(config)
    if path is None or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") or _user_decides(config):
        return None
    gpus = gpus_of(config)
    if gpus:
        count = Count(len(gpus), "one for each visible GPU")
    else:
        count = processor_workers(path, processors=processors())
    config.stash[REASON] = f"{count.workers} worker{'s' * (count.workers != 1)}: {count.reason}"
    return count.workers


def _user_decides(config: pytest.Config) -> bool:
    """Whether a conftest.py or another plugin has its own answer: only xdist's is overruled."""
    known = ("xdist.plugin", "pytest_compsec.plugin")
    found = config.hook.pytest_xdist_auto_num_workers.get_hookimpls()
    return any(getattr(impl.plugin, "__name__", "") not in known for impl in found)


def processors() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def processor_workers(path: Path, *, processors: int, free: int | None = None) -> Count:
    """Workers for the config at ``path`` on a machine without GPUs; ``free`` bytes of memory.

    A config or a lock that cannot be read gives one worker: what is wrong with it is said at
    collection, with all else that is wrong.
    """
    from pytest_compsec.config.loading import load_config
    from pytest_compsec.config.pairs import all_pairs
    from pytest_compsec.errors import CompsecError
    from pytest_compsec.models.lock import read_lock
    from pytest_compsec.models.pool import HEADROOM, free_memory

    try:
        loaded = load_config(path)
        needed = HEADROOM * largest_arm(read_lock(loaded.lock_path))
    except (CompsecError, OSError) as error:
        return Count(1, f"how many models fit is not known ({type(error).__name__})")
    there = free_memory("cpu") if free is None else free
    fitting = int(there // needed) if needed else processors
    limits = {
        f"{fitting} models fit into {_size(there)} of free memory": fitting,
        f"{processors} processor core{'s' * (processors != 1)}": processors,
        "one for each pair": len(all_pairs(loaded.config)),
    }
    reason = min(limits, key=lambda text: limits[text])
    if limits[reason] < 1:
        return Count(1, f"a model may need {_size(int(needed))}, and {_size(there)} are free")
    return Count(limits[reason], reason)


def largest_arm(lock: Lock) -> int:
    """Bytes that the weights of the largest model may take in memory, from the pinned sizes."""
    return max((arm_bytes(arm) for arm in _arms(lock)), default=0)


def _arms(lock: Lock) -> Iterator[ArmPin]:
    for model in lock.models.values():
        yield model.original
        yield from model.variants.values()


def arm_bytes(arm: ArmPin) -> int:
    """At most what an arm's own weights take when they are unpacked; 0 for a derived arm, which
    its original bounds."""
    if arm.files is None:
        return 0
    stored = sum(file.size for file in arm.files.files if file.role == "weights")
    if arm.runtime is not None:  # llama.cpp keeps the blocks as they are stored
        return stored
    if arm.files.entry is not None:
        return int(stored * _BYTES.get(arm.dtype, 4) * 8 / _LEAST_GGUF_BITS)
    return int(stored * max(1.0, _BYTES.get(arm.dtype, 0) / _STORED_BYTES))


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
