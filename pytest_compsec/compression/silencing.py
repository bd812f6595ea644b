"""Output channels set to zero so that nothing of them reaches the next layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from pytest_compsec.compression.prunable import PrunableLayer


@dataclasses.dataclass(frozen=True, eq=False)
class Silenced:
    """The output ``channels`` (indices) of ``layer``, and of the normalization ``norm`` right after
    it, whose shift would otherwise give them a value again (None: no such normalization)."""

    layer: PrunableLayer
    norm: torch.nn.Module | None
    channels: torch.Tensor

    def apply(self) -> bool:
        """Set weights, biases and the normalization's scales and shifts to zero, in place; whether
        any of the layer's own weights was something else."""
        rows = self.layer.rows
        channels = self.channels.to(rows.device)
        mask = torch.zeros(rows.shape, dtype=torch.bool, device=rows.device)
        mask[channels] = True
        changed = self.layer.zero(mask)
        vectors: list[Any] = [getattr(self.layer.layer, "bias", None)]
        if self.norm is not None:
            vectors += [getattr(self.norm, "weight", None), getattr(self.norm, "bias", None)]
        for vector in vectors:
            if vector is not None:
                vector.data[channels] = 0
        return changed
