"""The machine that measures, for the reports: what of it may change what a model answers."""

from __future__ import annotations

import functools
import platform
import sys
from pathlib import Path
from typing import Any


def machine_facts() -> dict[str, Any]:
    """Architecture, make of the processor, names of the visible GPUs (none before torch was
    imported), Python."""
    return {
        "processor": platform.machine(),
        "processor_model": _processor_model(),
        "gpus": _gpus(),
        "python": platform.python_version(),
    }


@functools.lru_cache(maxsize=1)
def _processor_model() -> str | None:
    """As the kernel calls it; None where it does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip() or None
    return platform.processor() or None


def _gpus() -> list[str]:
    """Names of the visible CUDA devices. torch is not imported for this: where nothing was
    computed with it there is nothing to tell."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [str(torch.cuda.get_device_name(place)) for place in range(torch.cuda.device_count())]
