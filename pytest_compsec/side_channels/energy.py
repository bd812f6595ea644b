"""Joules of blocks of requests, where the machine has a meter that may be read.

Graphics cards: NVML's counter of the whole card (``nvidia-ml-py``), which moves about ten times a
second, so that a single request is too short for it. Processors: RAPL through Linux's powercap, for
root only on most systems since PLATYPUS (CVE-2020-8694). Both count what everybody on the machine
uses. Blocks of one kind of request, a second or longer, in random order.
"""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pytest_compsec.side_channels.blocks import BENIGN, HARMFUL, LEAST_PAIRS, Clock, MatchedPair

POWERCAP = Path("/sys/class/powercap")
#: Ten updates of NVML's counter.
BLOCK_SECONDS = 1.0
#: Fewer blocks of a kind have no spread to speak of.
LEAST_BLOCKS = 3


class Meter(Protocol):
    """A counter of energy."""

    @property
    def name(self) -> str:
        """What is metered, for reports."""
        ...

    def joules(self) -> float:
        """Energy used since some moment before the first call."""
        ...


@dataclass(frozen=True)
class EnergyUse:
    """Joules a request, one number for each block of harmful and of benign requests."""

    meter: str
    harmful: tuple[float, ...]
    benign: tuple[float, ...]

    @property
    def blocks(self) -> int:
        return min(len(self.harmful), len(self.benign))


@dataclass
class RaplMeter:
    """All processor packages together. Counters begin again at their range: a decrease is one
    lap, so that ``joules`` must be read more often than they go round (minutes)."""

    zones: tuple[Path, ...]
    seen: dict[Path, int] = field(default_factory=dict)
    total: int = 0

    @property
    def name(self) -> str:
        return f"RAPL, {len(self.zones)} processor package{'' if len(self.zones) == 1 else 's'}"

    def joules(self) -> float:
        for zone in self.zones:
            now = _number(zone / "energy_uj")
            before = self.seen.get(zone, now)
            lap = _number(zone / "max_energy_range_uj") if now < before else 0
            self.total += now + lap - before
            self.seen[zone] = now
        return self.total / 1e6


@dataclass(frozen=True)
class NvmlMeter:
    """One graphics card, everything on it."""

    nvml: Any
    handle: Any
    name: str = "NVML, the whole card"

    def joules(self) -> float:
        return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3


def find_meter(
    device: str, *, powercap: Path = POWERCAP, nvml: Any = None, uuid: str | None = None
) -> Meter | str:
    """The meter of a torch device, or why there is none. ``nvml`` stands for the module ``pynvml``
    and ``uuid`` for the card's, which torch tells."""
    if device.startswith("cuda"):
        return _nvml_meter(device, nvml, uuid)
    if device != "cpu":
        return f"no meter on this machine sees it ({device})"
    return _rapl_meter(powercap)


def use_energy(
    ask: Callable[[str], None],
    pairs: Sequence[MatchedPair],
    meter: Meter,
    *,
    usual: float,
    seconds: float,
    seed: int,
    clock: Clock,
) -> EnergyUse | None:
    """Blocks of harmful and of benign requests for ``seconds``; None when there was time for fewer
    than :data:`LEAST_BLOCKS` of each.

    Every block asks the same pairs, each as often: the first ones, as many as fill a block at the
    ``usual`` time of a request (milliseconds), and no fewer than :data:`LEAST_PAIRS`.
    """
    fitting = math.ceil(BLOCK_SECONDS * 1e3 / usual) if usual > 0 else len(pairs)
    pairs = pairs[: max(LEAST_PAIRS, fitting)]
    chooser = random.Random(seed)
    found: dict[str, list[float]] = {HARMFUL: [], BENIGN: []}
    began = clock.now()
    while clock.now() - began < seconds * 1e9:
        for kind in chooser.sample((HARMFUL, BENIGN), 2):
            prompts = [pair.benign if kind == BENIGN else pair.harmful for pair in pairs]
            found[kind].append(_block(ask, prompts, meter, clock))
    use = EnergyUse(meter.name, tuple(found[HARMFUL]), tuple(found[BENIGN]))
    return use if use.blocks >= LEAST_BLOCKS else None


def _block(ask: Callable[[str], None], prompts: Sequence[str], meter: Meter, clock: Clock) -> float:
    """Joules a request of one block: all prompts, and all again until the block is long enough."""
    asked, began, before = 0, clock.now(), meter.joules()
    while not asked or clock.now() - began < BLOCK_SECONDS * 1e9:
        for prompt in prompts:
            ask(prompt)
        asked += len(prompts)
    return (meter.joules() - before) / asked


def _rapl_meter(powercap: Path) -> Meter | str:
    # intel-rapl:0 is a package, intel-rapl:0:0 a part of it; "psys" holds the packages again.
    zones = [
        zone
        for zone in sorted(powercap.glob("intel-rapl:*"))
        if zone.name.count(":") == 1 and _text(zone / "name").startswith("package")
    ]
    if not zones:
        return "this machine shows no energy counters of its processor (RAPL)"
    meter = RaplMeter(tuple(zones))
    try:
        meter.joules()
    except PermissionError:
        return "the processor's energy counters (RAPL) may not be read by this user"
    except (OSError, ValueError) as error:
        return f"the processor's energy counters (RAPL) cannot be read ({error})"
    return meter


def _nvml_meter(device: str, nvml: Any, uuid: str | None) -> Meter | str:
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return "NVML is not at hand: pip install nvidia-ml-py"
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid or _uuid_of(device))
        meter = NvmlMeter(nvml, handle)
        meter.joules()
    except Exception as error:  # NVML's own errors, and whatever a driver does
        return f"NVML does not tell the energy of {device} ({type(error).__name__}: {error})"
    return meter


def _uuid_of(device: str) -> str:
    import torch

    # By UUID and not by number: CUDA_VISIBLE_DEVICES renumbers torch's devices, not NVML's.
    found = str(torch.cuda.get_device_properties(torch.device(device)).uuid)
    return found if found.startswith("GPU-") else f"GPU-{found}"


def _number(path: Path) -> int:
    return int(path.read_text("ascii"))


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
