"""Change a model's float type as loading in that type would."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def cast_floats(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Cast, in place, everything that a checkpoint holds: parameters and stored buffers.

    ``module.to(dtype)`` casts what is computed when a model is made too, the frequencies of rotary
    positions above all. A model that was loaded in bfloat16 keeps those in float32, and rounding
    them turns positions by another angle.
    """
    stored = module.state_dict(keep_vars=True).keys()
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    for name, buffer in module.named_buffers():
        if name in stored and buffer.is_floating_point():
            buffer.data = buffer.data.to(dtype)
    return module
