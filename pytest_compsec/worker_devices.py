"""Which GPU each worker of pytest-xdist gets, and how much of its memory.

Decided by the controller and handed over in the environment of the worker's process, so it is
there before torch is imported and it stays when a crashed worker is replaced. Imports no torch:
torch fixes the list of devices when it is first asked.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from fractions import Fraction
from pathlib import Path

from pytest_compsec.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"
GPU_SHARE = "COMPSEC_GPU_SHARE"
MEMORY_SHARE = "COMPSEC_MEMORY_SHARE"
THREADS = "OMP_NUM_THREADS"

#: The driver may have to be loaded first, a second or two for each GPU.
_SMI_SECONDS = 60.0
_SMI_LINE = re.compile(r"^(\s*)(GPU|MIG)\b.*\(UUID: ([^)\s]+)\)")
_PROC = Path("/proc/driver/nvidia/gpus")


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU of this machine. ``instances`` are the ids of its MIG instances: where it has any, a
    process uses one of them and not the whole. ``uuid`` is None where the driver does not say."""

    uuid: str | None
    instances: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where one worker runs: ``device`` as CUDA names it, None on the processor. ``share`` is its
    part of the device's memory."""

    worker: str
    device: str | None
    share: Fraction = Fraction(1)


def usable_gpus(
    environment: Mapping[str, str],
    *,
    installed: Callable[[], Sequence[Gpu]] | None = None,
    torch_version: Callable[[], str] | None = None,
) -> tuple[str, ...]:
    """The ids of the GPUs that the caller of pytest may use, none where torch has no CUDA."""
    try:
        version = (torch_version or _torch_version)()
    except importlib.metadata.PackageNotFoundError:
        return ()
    if "+cpu" in version:
        return ()
    listed = environment.get(VISIBLE)
    if listed is not None and not listed.strip():
        return ()
    return visible_gpus(listed, (installed or installed_gpus)())


def _torch_version() -> str:
    return importlib.metadata.version("torch")


def visible_gpus(listed: str | None, gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """What ``CUDA_VISIBLE_DEVICES=listed`` leaves of ``gpus``, in its order; None: it is not set.

    As CUDA reads it (CUDA C++ Programming Guide, "CUDA Environment Variables"): indices, UUIDs
    (``GPU-...``) or MIG ids (``MIG-...``), of one kind throughout; UUIDs may be cut off as long as
    they name one GPU; whatever follows the first entry that names no device is invisible; a device
    named twice makes the whole list invalid. Indices are handed on as they are: their order is
    that of ``CUDA_DEVICE_ORDER``, which need not be the one in which the driver's tools count.
    """
    if not gpus:
        return ()
    if listed is None:
        return tuple(name for index, gpu in enumerate(gpus) for name in _names(index, gpu))
    found: list[str] = []
    resolved: list[str] = []
    for entry in listed.split(","):
        kind, name = _resolve(entry.strip(), gpus)
        if not name or (resolved and kind != resolved[0].partition(" ")[0]):
            break
        if f"{kind} {name}" in resolved:
            return ()
        resolved.append(f"{kind} {name}")
        found.append(name if kind == "index" else entry.strip())
    return tuple(found)


def _names(index: int, gpu: Gpu) -> tuple[str, ...]:
    return gpu.instances or (gpu.uuid or str(index),)


def _resolve(entry: str, gpus: Sequence[Gpu]) -> tuple[str, str]:
    """The kind of an entry and the device that it names, ``""`` when it names none."""
    if entry.startswith("GPU-"):
        uuids = [gpu.uuid for gpu in gpus if gpu.uuid is not None]
        if not uuids:
            return "GPU", entry  # Nothing to hold it against.
        matches = [uuid for uuid in uuids if uuid.startswith(entry)]
        return "GPU", matches[0] if len(matches) == 1 else ""
    if entry.startswith("MIG-"):
        instances = [name for gpu in gpus for name in gpu.instances]
        # The older form names GPU, GPU instance and compute instance, which no tool lists.
        known = not instances or entry.startswith("MIG-GPU-") or entry in instances
        return "MIG", entry if known else ""
    number = re.match(r"\+?(\d+)", entry)  # CUDA ignores what follows the digits.
    index = int(number[1]) if number else -1
    return "index", str(index) if 0 <= index < len(gpus) else ""


def installed_gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine, from ``nvidia-smi -L``, else from the driver's files."""
    return _gpus_of_smi() or _gpus_of_proc()


def _gpus_of_smi() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        # The list form: it alone has the MIG instances.
        done = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=_SMI_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ()
    return parse_smi(done.stdout)


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """The GPUs in the output of ``nvidia-smi -L``."""
    gpus: list[Gpu] = []
    for line in text.splitlines():
        match = _SMI_LINE.match(line)
        if match is None:
            continue
        if match[2] == "GPU":
            gpus.append(Gpu(match[3]))
        elif gpus:
            gpus[-1] = dataclasses.replace(gpus[-1], instances=(*gpus[-1].instances, match[3]))
    return tuple(gpus)


def _gpus_of_proc(root: Path = _PROC) -> tuple[Gpu, ...]:
    try:
        files = sorted(root.glob("*/information"))
        texts = [path.read_text("utf-8", "replace") for path in files]
    except OSError:
        return ()
    uuids = [re.search(r"^GPU UUID:\s*(GPU-[0-9a-f-]+)\s*$", text, re.MULTILINE) for text in texts]
    # Of a GPU that nothing has woken yet the driver writes question marks.
    return tuple(Gpu(uuid[1] if uuid else None) for uuid in uuids)


def place_workers(
    specs: Sequence[tuple[str, MutableMapping[str, str]]], devices: Sequence[str]
) -> list[Placement]:
    """Spread workers (id and environment) over ``devices`` and write it into the environments.

    Round-robin; a worker that the user gave devices keeps them (``--tx popen//env:...``), and the
    others avoid them while there are free ones. Workers on one device each get an equal share of
    its memory.
    """
    load = Counter(env[VISIBLE] for _, env in specs if VISIBLE in env)
    chosen: dict[str, str] = {}
    for worker, env in specs:
        if VISIBLE not in env and devices:
            device = min(devices, key=lambda name: load[name])
            load[device] += 1
            chosen[worker] = env[VISIBLE] = device
    placements = []
    for worker, env in specs:
        share = Fraction(1, load[chosen[worker]]) if worker in chosen else Fraction(1)
        if share != 1:
            env.setdefault(GPU_SHARE, str(share))
        placements.append(Placement(worker, env.get(VISIBLE) or None, share))
    return placements


def divide_processor(
    environments: Sequence[MutableMapping[str, str]],
    *,
    processors: int,
    environment: Mapping[str, str],
) -> None:
    """Where workers share the processor: an equal part of its cores and of main memory each,
    unless the user said otherwise (``environment`` is the caller's)."""
    if len(environments) < 2:
        return
    for env in environments:
        if THREADS not in environment:
            env.setdefault(THREADS, str(max(1, processors // len(environments))))
        if MEMORY_SHARE not in environment:
            env.setdefault(MEMORY_SHARE, str(Fraction(1, len(environments))))


def memory_share(device: str = "cuda", environment: Mapping[str, str] | None = None) -> float:
    """The part of the memory of ``device`` (``cuda:0``, ``cpu``) that this process may fill, in
    (0, 1]; 1 unless the controller of pytest-xdist, or the user, said otherwise in the
    ``environment`` (None: that of this process).

    Raises ConfigError for a value that is no such part.
    """
    name = GPU_SHARE if device.startswith("cuda") else MEMORY_SHARE
    text = (os.environ if environment is None else environment).get(name, "1")
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share <= 1:
        raise ConfigError(
            f"environment variable {name}={text}: a part of the memory of a device such as 1/2 "
            "or 0.5; leave it out to use all that is free"
        )
    return float(share)


def bytes_within_share(free: int, total: int, mine: int, share: float) -> int:
    """Bytes that a process may still take of ``total`` of which ``free`` are left and ``mine`` are
    its own already, when its part of the whole is ``share``."""
    return free if share >= 1 else max(0, min(free, int(total * share) - mine))


def placement_line(placements: Sequence[Placement]) -> str:
    """``gw0 on GPU-4a…, gw1 on GPU-7c… (1/2 of its memory)``."""
    parts = []
    for place in placements:
        where = "the processor" if place.device is None else f"GPU {_short(place.device)}"
        part = "" if place.share == 1 else f" ({place.share} of its memory)"
        parts.append(f"{place.worker} on {where}{part}")
    return ", ".join(parts)


def _short(device: str) -> str:
    return device if len(device) <= 13 else f"{device[:12]}…"
