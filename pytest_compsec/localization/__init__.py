"""Where inside a model its refusals sit, and which layers lost them.

- :func:`identify_safety_critical_heads` silences one attention head at a time;
- :func:`find_vulnerable_layers` restores one layer at a time, and damages one at a time.

Both are measured by what they do to the log-odds that an answer opens a refusal. Neither changes a
weight. The names are fetched from their rooms when first used, so importing this loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_compsec.localization.heads import HeadsReport, identify_safety_critical_heads
    from pytest_compsec.localization.layers import find_vulnerable_layers
    from pytest_compsec.localization.layers_report import LayersReport

_ROOMS = {
    "HeadsReport": "heads",
    "LayersReport": "layers_report",
    "find_vulnerable_layers": "layers",
    "identify_safety_critical_heads": "heads",
}

__all__ = [
    "HeadsReport",
    "LayersReport",
    "find_vulnerable_layers",
    "identify_safety_critical_heads",
]


def __getattr__(name: str) -> Any:
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{room}"), name)
