"""The peaks of ``--compsec-memory`` as lines and as JSON. Bytes in, no measuring here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_compsec.reports.text import one_line

#: What one process reports: ``how`` it was measured, and ``arms`` as ``ArmPeak.to_json`` has them.
ProcessMemory = Mapping[str, Any]

ALONE = "one arm at a time: no other model's weights were in memory beside the one in use"
TOGETHER = (
    "more than one arm at a time: weights of other models were kept because they fitted; "
    "--compsec-one-model keeps one"
)


def one_arm_at_a_time(processes: Mapping[str, ProcessMemory]) -> bool:
    """Whether no peak holds the weights of another arm."""
    return all(not arm["others"] for found in processes.values() for arm in found["arms"])


def memory_data(processes: Mapping[str, ProcessMemory]) -> dict[str, Any]:
    """For the JSON report; all sizes in bytes. ``processes`` by worker (``main`` without any)."""
    return {
        "one_arm_at_a_time": one_arm_at_a_time(processes),
        "processes": {name: dict(found) for name, found in sorted(processes.items())},
    }


def memory_lines(processes: Mapping[str, ProcessMemory]) -> list[str]:
    """One line for each arm of each process, then whether arms shared the memory."""
    lines = []
    for name, found in sorted(processes.items()):
        where = "" if name == "main" else f" ({one_line(name, 20)})"
        lines += [f"memory{where}: {_line(arm)}" for arm in found["arms"]]
    if not lines:
        return ["memory: no model was loaded; the answers came from the cache"]
    hows = sorted(
        {one_line(str(found["how"]), 120) for found in processes.values() if found["arms"]}
    )
    lines.append(f"memory: {ALONE if one_arm_at_a_time(processes) else TOGETHER}")
    lines.append(
        f"memory: resident peaks are of the whole process ({', '.join(hows)}) and count mapped "
        "pages of weights files"
    )
    return lines


def _line(arm: Mapping[str, Any]) -> str:
    parts = [("weights", arm["weights"]), ("other arms", arm["others"])]
    on_gpu = arm.get("allocated") is not None
    if on_gpu:
        reserved = size(arm.get("reserved"))
        peak = f"{size(arm['allocated'])} allocated and {reserved} reserved on the GPU"
    else:
        peak = f"{size(arm['resident'])} resident"
        parts.insert(0, ("before any model", arm["before"]))
    parts.append(("key-value cache, activations and loading", arm.get("rest")))
    told = [f"{name} {size(count)}" for name, count in parts if count or name == "weights"]
    name, device = one_line(arm["arm"], 60), one_line(arm["device"], 40)
    text = f"{name} on {device}: peak {peak}: {', '.join(told)}"
    if on_gpu:
        text += f"; {size(arm['resident'])} resident in main memory"
    return text


def size(count: int | None) -> str:
    """Bytes in the unit that people read: ``312 MiB``, ``1.42 GiB``."""
    if count is None:
        return "unknown"
    if count < 2**30:
        return f"{count / 2**20:.0f} MiB"
    return f"{count / 2**30:.2f} GiB"
