"""How the weight tensor of a layer is read as a matrix: one row for each output channel, one column
for each input that the channel multiplies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Layout:
    """``kind`` of stored tensor, and the ``groups`` of a convolution:

    - ``rows``: (output channels, inputs), as ``torch.nn.Linear`` has it;
    - ``columns``: (inputs, output channels), as the ``Conv1D`` of GPT-2 has it;
    - ``convolution``: (output channels, inputs / groups, *kernel);
    - ``transposed convolution``: (inputs, output channels / groups, *kernel).

    The inputs of a convolution's channel are its input channels times the places of its kernel, in
    the order in which they are stored.
    """

    kind: Literal["rows", "columns", "convolution", "transposed convolution"] = "rows"
    groups: int = 1

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """(output channels, inputs); a view of ``weight`` or a copy."""
        if self.kind == "columns":
            return weight.t()
        if self.kind == "convolution":
            return weight.flatten(1)
        if self.kind == "transposed convolution":
            # A group of inputs feeds its own output channels: (groups, inputs, outputs, *kernel).
            grouped = weight.reshape(self.groups, -1, *weight.shape[1:])
            return grouped.transpose(1, 2).flatten(0, 1).flatten(1)
        return weight

    def stored(self, matrix: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """The tensor of ``shape`` whose :meth:`matrix` is ``matrix``."""
        if self.kind == "columns":
            return matrix.t()
        if self.kind == "convolution":
            return matrix.reshape(tuple(shape))
        if self.kind == "transposed convolution":
            inputs, outputs, *kernel = shape
            each = (self.groups, outputs, inputs // self.groups, *kernel)
            return matrix.reshape(each).transpose(1, 2).reshape(tuple(shape))
        return matrix


def layout_of(layer: torch.nn.Module) -> Layout | None:
    """The layout of ``layer.weight``, or None for a layer that is neither linear nor a convolution
    (also: bilinear layers, recurrent layers and attention that keep several matrices in one)."""
    import torch

    if isinstance(layer, torch.nn.Linear):
        return Layout("rows")
    if type(layer).__name__ == "Conv1D":
        return Layout("columns")
    if isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d):
        return Layout("convolution", layer.groups)
    if isinstance(
        layer, torch.nn.ConvTranspose1d | torch.nn.ConvTranspose2d | torch.nn.ConvTranspose3d
    ):
        return Layout("transposed convolution", layer.groups)
    return None


def is_convolution(layout: Layout) -> bool:
    return layout.kind in ("convolution", "transposed convolution")
