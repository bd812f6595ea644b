"""Layers that a variant keeps in full precision, whatever its method does to the others.

Safety sits in few layers; keeping those costs little memory. Here the layers are taken out of the
method's sight while it works, so that no method need know of it.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch

from pytest_compsec.compression.layouts import is_convolution, layout_of
from pytest_compsec.compression.treated import is_language_model
from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.weights import output_embedding

#: Of the weights of all layers that can be compressed, how many may be kept. Above it a verdict
#: would be about a model that is the original but for a remainder, and be called one about a
#: compressed model.
MOST_KEPT = 0.9


class Kept(torch.nn.Module):
    """Stands for a layer that no method may touch: computes as it does and has its attributes, but
    is no linear layer and shows no parameters."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self._kept = (layer,)  # In a tuple, so that torch does not see it.

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._kept[0](*args, **kwargs)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Kept:
        # Moves to another device, and changes of the float type, include it.
        layer: Any = self._kept[0]
        layer._apply(fn, recurse)
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_kept"][0], name)


def linear_layers(module: torch.nn.Module) -> tuple[str, ...]:
    """The names of all linear layers but the output embedding, in the module's order."""
    output = output_embedding(module)
    return tuple(
        name
        for name, layer in module.named_modules()
        if layer is not output
        and (isinstance(layer, torch.nn.Linear) or type(layer).__name__ == "Conv1D")
    )


def compressible_layers(module: torch.nn.Module) -> tuple[str, ...]:
    """The names of all layers that some method compresses, in the module's order: the linear ones,
    and the convolutions of a module that is no language model."""
    if is_language_model(module):
        return linear_layers(module)
    linear = frozenset(linear_layers(module))
    return tuple(
        name
        for name, layer in module.named_modules()
        if name in linear or ((layout := layout_of(layer)) is not None and is_convolution(layout))
    )


def kept_layers(module: torch.nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """The layers (linear ones; convolutions too, of no language model) that ``patterns`` name: a
    layer, all layers under a module (``model.layers.3``), or a pattern (``*.down_proj``).

    Raises NotCompressedError for a pattern that names no such layer, since what was to be kept
    would then be compressed, for the output embedding, which every method leaves alone, and when
    more than :data:`MOST_KEPT` of the weights would be kept.
    """
    layers = compressible_layers(module)
    what = "linear layer" if is_language_model(module) else "linear layer or convolution"
    chosen: set[str] = set()
    for pattern in patterns:
        found = {
            name
            for name in layers
            if fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
        }
        if not found and _is_output(module, pattern):
            raise NotCompressedError(
                f"keep_in_full_precision names {pattern!r}, the output embedding, which no method "
                "compresses: leave it out"
            )
        if not found:
            close = difflib.get_close_matches(pattern, layers, n=1, cutoff=0.4)
            example = (close or list(layers[:1]) or ["none"])[0]
            raise NotCompressedError(
                f"keep_in_full_precision names {pattern!r}, and no {what} of the model is "
                f"called so; one is {example!r}"
            )
        chosen |= found
    if layers and len(chosen) == len(layers):
        raise NotCompressedError(
            f"keep_in_full_precision keeps all {len(layers)} {what.replace(' or', 's or')}s: "
            "nothing is compressed"
        )
    share = _share(module, chosen, layers)
    if share > MOST_KEPT:
        raise NotCompressedError(
            f"keep_in_full_precision keeps {share:.1%} of the weights of the "
            f"{what.replace(' or', 's or')}s; above {MOST_KEPT:.0%} the model is the "
            "original but for a remainder, and no verdict on it would be one on a compressed "
            "model. Name fewer layers"
        )
    return tuple(name for name in layers if name in chosen)


def _is_output(module: torch.nn.Module, pattern: str) -> bool:
    output = output_embedding(module)
    return output is not None and any(
        layer is output and fnmatch.fnmatchcase(name, pattern)
        for name, layer in module.named_modules()
    )


def _share(module: torch.nn.Module, chosen: Collection[str], layers: Sequence[str]) -> float:
    sizes: dict[str, int] = {}
    for name in layers:
        layer: Any = module.get_submodule(name)
        sizes[name] = layer.weight.numel()
    return sum(sizes[name] for name in chosen) / max(sum(sizes.values()), 1)


def hide(module: torch.nn.Module, names: Sequence[str]) -> dict[str, torch.nn.Module]:
    """Put a :class:`Kept` in the place of each named layer; the layers by name.

    Raises NotCompressedError when a layer that is not named has the weights of one that is: they
    would be compressed with it.
    """
    layers = {name: module.get_submodule(name) for name in names}
    for name, layer in layers.items():
        module.set_submodule(name, Kept(layer))
    kept = {
        id(weight): name for name, layer in layers.items() for weight in layer.parameters()
    }  # fmt: skip
    for name in compressible_layers(module):
        for weight in module.get_submodule(name).parameters():
            if id(weight) in kept:
                raise NotCompressedError(
                    f"keep_in_full_precision keeps {kept[id(weight)]}, whose weights {name} shares "
                    "and which is not kept: name both"
                )
    return layers


def put_back(
    module: torch.nn.Module, layers: Mapping[str, torch.nn.Module], device: str
) -> torch.nn.Module:
    """Put hidden layers back where they were, on ``device``."""
    for name, layer in layers.items():
        module.set_submodule(name, layer.to(device))
    return module
