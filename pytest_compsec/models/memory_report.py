"""How much memory each arm took: the peaks of ``--compsec-memory``.

From the moment an arm is asked for until another one is, the process's memory counts as that arm's:
its loading, its answers, its scores. On Linux the kernel's own mark (``VmHWM`` of
``/proc/self/status``, proc(5)) is set back at each change by writing 5 to
``/proc/self/clear_refs``, so a peak is exact however short it was; elsewhere a thread looks every
:data:`INTERVAL` seconds through psutil, and a shorter peak is missed. On CUDA the allocator of
torch keeps the mark.

Resident memory is the whole process: interpreter, libraries, and pages of a weights file that are
mapped and could be given back. So each peak comes with what it is made of.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_compsec.errors import CompsecError
from pytest_compsec.models.importing import import_libraries
from pytest_compsec.models.pool import ModelPool

if TYPE_CHECKING:
    from pytest_compsec.models.arm import Arm
    from pytest_compsec.models.loaded import LoadedModel

#: Seconds between two looks of the thread, where the kernel keeps no mark.
INTERVAL = 0.02
KERNEL = "the kernel's mark"
SAMPLED = f"sampled every {1000 * INTERVAL:g} ms"
_PROCESS = Path("/proc/self")


@dataclasses.dataclass(frozen=True)
class ArmPeak:
    """One arm in one process; all sizes in bytes.

    ``weights``: its own parameters and buffers (0 where another program or a server holds them);
    ``before``: resident memory when the first model was asked for, libraries included; ``others``:
    the weights of the other models that were in memory at the same time; ``resident``: the peak of
    the process's resident memory (None where nothing tells it). ``allocated`` and ``reserved``: the
    peaks of torch's allocator on the arm's GPU, None on a CPU.
    """

    arm: str
    device: str
    weights: int
    others: int
    before: int | None
    resident: int | None
    allocated: int | None = None
    reserved: int | None = None

    @property
    def rest(self) -> int | None:
        """What the peak holds beside weights and what was there before: the key-value cache,
        activations, and what loading takes for a moment. On a GPU of what torch allocated."""
        if self.allocated is not None:
            return max(0, self.allocated - self.weights - self.others)
        if self.resident is None or self.before is None:
            return None
        return max(0, self.resident - self.before - self.weights - self.others)

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "rest": self.rest}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ArmPeak:
        return cls(**{field.name: value[field.name] for field in dataclasses.fields(cls)})


class Gauge(Protocol):
    """The process's resident memory: ``now``, and the ``peak`` since the last ``reset`` (bytes,
    None: unknown)."""

    how: str

    def now(self) -> int | None: ...

    def peak(self) -> int | None: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...


class KernelGauge:
    """Reads and resets the kernel's mark. Raises OSError where that is not possible."""

    how = KERNEL

    def __init__(self, process: Path = _PROCESS) -> None:
        self._process = process
        self.reset()
        if self._field("VmHWM") is None:
            raise OSError("the kernel tells no VmHWM")

    def now(self) -> int | None:
        return self._field("VmRSS")

    def peak(self) -> int | None:
        return self._field("VmHWM")

    def reset(self) -> None:
        (self._process / "clear_refs").write_text("5", encoding="ascii")

    def close(self) -> None:
        """Nothing to stop."""

    def _field(self, name: str) -> int | None:
        for line in (self._process / "status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        return None


class SamplingGauge:
    """Looks every ``interval`` seconds; ``read`` gives the resident bytes."""

    how = SAMPLED

    def __init__(self, read: Callable[[], int], interval: float = INTERVAL) -> None:
        self._read = read
        self._peak = read()
        self._stop = threading.Event()
        self._interval = interval
        self._thread = threading.Thread(target=self._look, name="compsec-memory", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(self._interval):
            self._peak = max(self._peak, self._read())

    def now(self) -> int | None:
        return self._read()

    def peak(self) -> int | None:
        self._peak = max(self._peak, self._read())
        return self._peak

    def reset(self) -> None:
        self._peak = self._read()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


class NoGauge:
    """Where nothing tells the memory of a process."""

    how = "unknown on this system"

    def now(self) -> int | None:
        return None

    def peak(self) -> int | None:
        return None

    def reset(self) -> None:
        """Nothing to set back."""

    def close(self) -> None:
        """Nothing to stop."""


def best_gauge() -> Gauge:
    """The kernel's mark, else psutil (which accelerate brings), else none."""
    try:
        return KernelGauge()
    except OSError:
        pass
    try:
        psutil: Any = importlib.import_module("psutil")
    except ImportError:
        return NoGauge()
    process = psutil.Process(os.getpid())
    return SamplingGauge(lambda: int(process.memory_info().rss))


class MemoryWatch:
    """The peaks of one process, by arm. ``changes`` grows with every peak that is noted."""

    def __init__(self, gauge: Gauge | None = None) -> None:
        self._gauge = gauge or best_gauge()
        self._peaks: dict[str, ArmPeak] = {}
        self._current: ArmPeak | None = None
        self._before: int | None = None
        self.how = self._gauge.how

    @property
    def peaks(self) -> tuple[ArmPeak, ...]:
        """All arms so far, the one in use included, in the order of their first use."""
        self._note()
        return tuple(self._peaks.values())

    def asked_for(self, arm: Arm, others: int) -> None:
        """``arm`` is about to be used, beside models whose weights take ``others`` bytes."""
        if self._current is not None and self._current.arm == arm.name:
            self._current = dataclasses.replace(
                self._current, others=max(others, self._current.others)
            )
            return
        self._note()
        if self._before is None:
            # What every model needs is no model's: not counted as the loading of the first.
            import_libraries(lambda: True)
            self._before = self._gauge.now()
        self._gauge.reset()
        _reset_cuda()
        self._current = ArmPeak(arm.name, "cpu", 0, others, self._before, None)

    def in_memory(self, arm: Arm, model: LoadedModel, others: int) -> None:
        """``arm`` is ready to be used."""
        if self._current is None or self._current.arm != arm.name:
            return
        self._current = dataclasses.replace(
            self._current,
            device=model.device,
            weights=weights_bytes(model),
            others=max(others, self._current.others),
        )
        self._note()

    def close(self) -> None:
        self._note()
        self._current = None
        self._gauge.close()

    def _note(self) -> None:
        """Keep what the current arm has taken so far if it is more than in its earlier uses."""
        if self._current is None:
            return
        allocated, reserved = _cuda_peaks(self._current.device)
        found = dataclasses.replace(
            self._current, resident=self._gauge.peak(), allocated=allocated, reserved=reserved
        )
        known = self._peaks.get(found.arm)
        if known is None or _height(found) >= _height(known):
            self._peaks[found.arm] = found


class WatchedPool(ModelPool):
    """A pool that tells a :class:`MemoryWatch` which arm is in use."""

    def __init__(self, watch: MemoryWatch, **settings: Any) -> None:
        super().__init__(**settings)
        self._watch = watch
        self._loading = False

    def get(self, arm: Arm) -> LoadedModel:
        self._loading = False
        model = super().get(arm)
        if not self._loading:
            self._watch.asked_for(arm, self._held(arm))
        self._watch.in_memory(arm, model, self._held(arm))
        return model

    def _make_room(self, arm: Arm, device: str, dtype: str) -> None:
        super()._make_room(arm, device, dtype)
        # Only now: what was freed for this arm is no part of its peak.
        self._loading = True
        self._watch.asked_for(arm, self._held(arm))

    def _held(self, arm: Arm) -> int:
        """Bytes of the models in the pool that are not this arm's."""
        return sum(
            weights_bytes(model)
            for model in self._models.values()
            if model.arm.weights_digest != arm.weights_digest
        )


def weights_bytes(model: LoadedModel) -> int:
    """Bytes of the parameters and buffers of a model, storage that several share counted once; 0
    where they are not in this process's hands."""
    try:
        module = model.module
    except CompsecError:
        return 0
    storages = {}
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type != "meta":
            storage = tensor.untyped_storage()
            storages[str(tensor.device), storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _height(peak: ArmPeak) -> tuple[int, int]:
    return peak.allocated or 0, peak.resident or 0


def _cuda_devices() -> range:
    """The GPUs that this process has used."""
    import torch

    cuda: Any = torch.cuda  # Its functions have no types.
    return range(cuda.device_count() if cuda.is_initialized() else 0)


def _reset_cuda() -> None:
    import torch

    for number in _cuda_devices():
        torch.cuda.reset_peak_memory_stats(number)


def _cuda_peaks(device: str) -> tuple[int | None, int | None]:
    """Allocated and reserved, of an arm on a GPU: over all GPUs that it may be spread over."""
    import torch

    devices = _cuda_devices() if device.startswith("cuda") else range(0)
    if not devices:
        return None, None
    return (
        sum(torch.cuda.max_memory_allocated(number) for number in devices),
        sum(torch.cuda.max_memory_reserved(number) for number in devices),
    )
