"""Round-to-nearest quantization, simulated: each weight becomes the nearest value of a small grid
(:mod:`pytest_compsec.compression.grid` holds the grids and their sources).

"Simulated": the module holds and computes with the values of the grid in its own float type, so it
answers as the small model would, and takes no less memory. It works on any ``torch.nn.Module``:
language models, classifiers, convolutional networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.compression.grid import LEVELS, Grid, find_grid, quantize_dequantize
from pytest_compsec.compression.layouts import Layout, is_convolution, layout_of
from pytest_compsec.compression.treated import is_language_model, treated_roles
from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.weights import output_embedding

if TYPE_CHECKING:
    import torch

__all__ = ["Grid", "apply", "expected", "find_grid", "quantize_dequantize"]


def expected(options: Mapping[str, Any], module: torch.nn.Module | None = None) -> Expectation:
    """No linear weight matrix holds more than 2^bits (ternary 3, binary 2) values in any group.

    The same goes for the convolutions of ``module``, where one is given that is no language model.
    """
    bits = options.get("bits")
    return Expectation(
        max_levels=2**bits if bits is not None else LEVELS[options["levels"]],
        group_size=options.get("group_size"),
        roles=treated_roles(module),
    )


def apply(module: torch.nn.Module, options: Mapping[str, Any], device: str) -> torch.nn.Module:
    """Quantize the weights of any ``module`` in place and put it on ``device``.

    Treated: the weight of every linear layer (``torch.nn.Linear``, and the ``Conv1D`` of GPT-2),
    and of every convolution (also transposed ones), whose inputs are its input channels times the
    places of its kernel. A classifier's head is an ordinary linear layer. Left alone, as by the
    other methods: embeddings, the output embedding and what is tied to either, norms and biases,
    matrices that belong to no such layer (recurrent layers, ``torch.nn.MultiheadAttention``'s
    inputs), and the convolutions of a language model, whose few weights no deployed format packs.

    Raises NotCompressedError, naming the layer, for weights that are not finite or not floats,
    and when no weight changes, since a verdict would then compare a model with itself.
    """
    layers = 0
    changed = False
    for name, weight, layout in _treated(module):
        layers += 1
        try:
            changed |= _quantize_in_place(weight, options, layout)
        except ValueError as error:
            raise NotCompressedError(f"{name or 'the layer'}: {error}") from error
    if not changed:
        language = is_language_model(module)
        reason = (
            f"the weights of all {layers} linear layers{'' if language else ' and convolutions'} "
            "are on that grid already"
            if layers
            else f"the model has no linear layer {'' if language else 'or convolution '}that this "
            "method works on"
        )
        raise NotCompressedError(f"round-to-nearest compresses nothing here: {reason}")
    return module.to(device)


def _treated(module: torch.nn.Module) -> Iterator[tuple[str, Any, Layout]]:
    """(name of the layer, its weight, its layout) for every weight to quantize, each once."""
    import torch

    output = output_embedding(module)
    done = {
        id(layer.weight)
        for layer in module.modules()
        if layer is output or isinstance(layer, torch.nn.Embedding)
    }
    for name, layer in module.named_modules():
        layout = layout_of(layer)
        if layout is None or (is_convolution(layout) and is_language_model(module)):
            continue
        weight: Any = layer.weight
        if id(weight) not in done:
            done.add(id(weight))  # Two layers may share it.
            yield name, weight, layout


def _quantize_in_place(weight: Any, options: Mapping[str, Any], layout: Layout) -> bool:
    """Round the parameter, note its grid on it for the measurement; whether any value changed."""
    import torch

    if not isinstance(weight, torch.nn.Parameter):
        raise ValueError("the weight is computed (a parametrization), so it cannot be replaced")
    rows = layout.matrix(weight.data)
    grid = find_grid(
        rows,
        bits=options.get("bits"),
        levels=options.get("levels"),
        group_size=options.get("group_size"),
        symmetric=bool(options.get("symmetric", True)),
    )
    quantized = grid.round(rows).to(rows.dtype)
    changed = not torch.equal(quantized, rows)
    weight.data.copy_(layout.stored(quantized, weight.shape))
    marked: Any = weight
    marked.simulated_grid = dataclasses.replace(grid, layout=layout, threshold=None)
    return changed
