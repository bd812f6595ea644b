"""The layers that unstructured pruning works on, read and changed as (output channels, inputs)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from pytest_compsec.compression.kept import compressible_layers, linear_layers
from pytest_compsec.compression.layouts import Layout, is_convolution, layout_of
from pytest_compsec.compression.treated import is_language_model
from pytest_compsec.errors import NotCompressedError


@dataclasses.dataclass(frozen=True, eq=False)
class PrunableLayer:
    """One linear layer or convolution by its ``name``; ``layout`` says how its weight is stored."""

    name: str
    layer: torch.nn.Module
    layout: Layout

    @property
    def weight(self) -> torch.nn.Parameter:
        """The parameter as it is stored."""
        weight = self.layer.weight
        assert isinstance(weight, torch.nn.Parameter)  # prunable_layers() looked
        return weight

    @property
    def rows(self) -> torch.Tensor:
        """The weight in shape (output channels, inputs): a view of a linear layer's, of a
        convolution's a view or a copy."""
        return self.layout.matrix(self.weight.data)

    def zero(self, mask: torch.Tensor) -> bool:
        """Set the weights that ``mask`` (output channels, inputs) marks to zero, in place; whether
        any of them was something else."""
        rows = self.rows
        changed = bool((mask & (rows != 0)).any())
        if is_convolution(self.layout):
            weight = self.weight.data
            weight.masked_fill_(self.layout.stored(mask, weight.shape), 0)
        else:
            rows.masked_fill_(mask, 0)
        return changed


def prunable_layers(module: torch.nn.Module, *, convolutions: bool = False) -> list[PrunableLayer]:
    """Every linear layer (``torch.nn.Linear``, the ``Conv1D`` of GPT-2) in the module's order, but
    the output embedding and what is tied to an embedding; layers that share a weight count once.
    With ``convolutions`` also those (transposed ones too) of a module that is no language model.

    Raises NotCompressedError, naming the layer, for weights that are no finite floats, and when
    there is no such layer.
    """
    seen = {id(layer.weight) for layer in module.modules() if isinstance(layer, torch.nn.Embedding)}
    layers = []
    for name in compressible_layers(module) if convolutions else linear_layers(module):
        layer = module.get_submodule(name)
        weight: Any = layer.weight
        layout = layout_of(layer)
        if id(weight) in seen or layout is None:
            continue
        seen.add(id(weight))
        if not isinstance(weight, torch.nn.Parameter):
            raise NotCompressedError(
                f"{name}: the weight is computed (a parametrization), so it cannot be pruned"
            )
        if not weight.is_floating_point():
            raise NotCompressedError(
                f"{name}: the weights are {weight.dtype} codes, not floats: quantized already?"
            )
        wrong = weight.numel() - int(weight.detach().isfinite().sum())
        if wrong:
            raise NotCompressedError(
                f"{name}: {wrong:,} of {weight.numel():,} weights are NaN or infinite"
            )
        layers.append(PrunableLayer(name, layer, layout))
    if not layers:
        or_convolution = " or convolution" if convolutions and not is_language_model(module) else ""
        raise NotCompressedError(
            f"the model has no linear layer{or_convolution} that pruning works on"
        )
    return layers


def require_changed(changed: bool, layers: int) -> None:
    """Raise NotCompressedError when pruning set nothing to zero: a verdict would then compare a
    model with itself."""
    if not changed:
        raise NotCompressedError(
            f"pruning changes nothing here: in all {layers} layers the weights that it "
            "would remove are zero already"
        )
