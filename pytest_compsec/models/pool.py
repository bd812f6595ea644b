"""Keep models in memory while they fit, and free the rest.

Tests come grouped by pair, and pairs share originals: loading each arm once instead of once a test
is most of the time saved. Only one arm need ever be in memory.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from pathlib import Path

from pytest_compsec.models.arm import Arm
from pytest_compsec.models.devices import placement
from pytest_compsec.models.headers import read_headers
from pytest_compsec.models.loaded import LoadedModel
from pytest_compsec.models.loading import can_derive, load
from pytest_compsec.models.packed.layers import inventory
from pytest_compsec.models.packed.settings import packed_settings
from pytest_compsec.models.served.model import ServedModel, open_served, served_key
from pytest_compsec.models.served.pin import Served
from pytest_compsec.worker_devices import bytes_within_share, memory_share

# A new arm must leave this much of its own size free again, for activations and the key-value
# cache, and for the dense copy from which a quantized one is made.
HEADROOM = 1.5
# Models that are not needed now stay only where memory is plentiful: so many times the size of the
# next one. Elsewhere a run holds one arm and its key-value cache.
KEEPING = 2.5
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
# Bits per weight of the most compact GGUF files in use; how far unpacking can blow one up.
_LEAST_GGUF_BITS = 2.0

Key = tuple[str, str, str]


class ModelPool:
    """Loaded models by weights, float type and device; the least recently used goes first.

    ``load`` and ``free_bytes(device)`` can be replaced; ``capacity`` bounds the number of models,
    None leaves it to memory. Freeing drops the pool's own reference: whoever still holds a
    LoadedModel keeps it alive, so ask for it again instead of storing it.
    """

    def __init__(
        self,
        *,
        load: Callable[..., LoadedModel] = load,
        free_bytes: Callable[[str], int] | None = None,
        capacity: int | None = None,
    ) -> None:
        self._load = load
        self._free_bytes = free_bytes or free_memory
        self._capacity = capacity
        self._models: dict[Key, LoadedModel] = {}  # In order of use, the latest last.
        self._served: dict[Hashable, ServedModel] = {}  # They take no memory here.

    def get(self, arm: Arm) -> LoadedModel:
        """The arm in memory, loaded now if need be, or the server that answers for it. Raises what
        :func:`loading.load` and :func:`served.model.open_served` raise."""
        if arm.served is not None:
            return self._serving(arm, arm.served)
        device, dtype = placement(arm)
        key = (arm.weights_digest, dtype, device)
        if key in self._models:
            self._models[key] = self._models.pop(key)
            return self._models[key].serving(arm)
        self._make_room(arm, device, dtype)
        base = next((m for m in self._models.values() if can_derive(arm, m)), None)
        loaded = self._load(arm, base=base) if base is not None else self._load(arm)
        self._models[key] = loaded
        return loaded

    def fits_together(self, *arms: Arm) -> bool:
        """Whether these arms can be in memory at once, by the same estimate that frees others."""
        if self._capacity is not None and self._capacity < len(arms):
            return False
        needed: dict[str, float] = {}
        for arm in arms:
            if arm.served is not None:
                continue
            device, dtype = placement(arm)
            if (arm.weights_digest, dtype, device) not in self._models:
                size = KEEPING * estimated_bytes(arm, dtype)
                for place in {device, _reading_place(arm, device)}:
                    needed[place] = needed.get(place, 0.0) + size
        return all(self._free_bytes(place) >= size for place, size in needed.items())

    def close(self) -> None:
        """Free every model."""
        for served in self._served.values():
            served.server.close()
        self._served.clear()
        if self._models:
            self._models.clear()
            _free()

    def __len__(self) -> int:
        return len(self._models)

    def _serving(self, arm: Arm, served: Served) -> LoadedModel:
        key = served_key(served)
        if key not in self._served:
            self._served[key] = open_served(arm)
        return self._served[key].serving(arm)

    def _make_room(self, arm: Arm, device: str, dtype: str) -> None:
        needed = KEEPING * estimated_bytes(arm, dtype)
        while self._models and (
            (self._capacity is not None and len(self._models) >= self._capacity)
            or any(
                self._free_bytes(place) < needed for place in {device, _reading_place(arm, device)}
            )
        ):
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._models.pop(next(iter(self._models)))
        _free()


def _free() -> None:
    # Modules refer to themselves (hooks, tied weights): counting references frees nothing.
    gc.collect()
    _empty_cuda_cache()


def estimated_bytes(arm: Arm, dtype: str) -> int:
    """Bytes of the arm's dense weights in ``dtype``, from the files' headers and sizes alone; of an
    arm in llama.cpp, which keeps the blocks as they are stored, the file's own size."""
    directory = arm.files.directory
    if arm.files.entry is not None:
        size = (directory / arm.files.entry).stat().st_size
        if arm.runtime is not None:
            return size
        return int(size * _BYTES[dtype] * 8 / _LEAST_GGUF_BITS)
    packed = packed_settings(directory) if arm.code is None else None
    if packed is not None:
        # A word of eight 4-bit codes becomes eight weights.
        return inventory(directory, packed).dense_elements * _BYTES[dtype]
    return sum(tensor.elements for tensor in read_headers(directory).values()) * _BYTES[dtype]


def free_memory(device: str) -> int:
    """Free bytes of a CUDA device, or bytes that this process may still take of main memory."""
    if device.startswith("cuda"):
        import torch

        place = torch.device(device)
        free, total = torch.cuda.mem_get_info(place)
        mine = torch.cuda.memory_reserved(place)
        return bytes_within_share(free, total, mine, memory_share(device))
    return int(min(_available_memory(), _control_group_memory()) * memory_share("cpu"))


def _reading_place(arm: Arm, device: str) -> str:
    """Where the weights are while they are read: recipes and adapters start in main memory."""
    return device if arm.recipe is None and arm.adapter is None else "cpu"


def _available_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # Not Linux: free memory is not told, so nothing but `capacity` bounds the pool.
    return 1 << 62


def _control_group_memory() -> int:
    """What a container's limit leaves (cgroup version 2); no limit where there is none."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text("ascii").strip()
        used = int((group / "memory.current").read_text("ascii"))
        cache = sum(
            int(line.split()[1])
            for line in (group / "memory.stat").read_text("ascii").splitlines()
            if line.startswith("inactive_file ")
        )
        return 1 << 62 if limit == "max" else int(limit) - used + cache
    except (OSError, ValueError):
        return 1 << 62


def _empty_cuda_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
