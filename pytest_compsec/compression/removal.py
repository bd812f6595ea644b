"""Taking rows and columns out of linear layers, and a config that says what is left."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

from pytest_compsec.compression.blocks import decoder_layers
from pytest_compsec.compression.masks import pruned_count
from pytest_compsec.errors import NotCompressedError


def kept_units(importance: torch.Tensor, removed: int) -> torch.Tensor:
    """The indices, rising, that are left when the ``removed`` least important units (scores of
    shape (units,)) go. Of equal ones the first go."""
    return importance.argsort(stable=True)[removed:].sort().values.cpu()


def units_removed(share: float, units: int, what: str) -> int:
    """``ceil(share × units)``. Raises NotCompressedError when none would be left."""
    removed = pruned_count(share, units)
    if removed >= units:
        raise NotCompressedError(
            f"'share: {share:g}' removes all {units} {what} of a layer: it is rounded up to whole "
            f"ones. Choose at most {(units - 1) / units:.4g}"
        )
    return removed


def indices_of(blocks: torch.Tensor, size: int) -> torch.Tensor:
    """The indices of all elements of these blocks of ``size``: [1] and 2 give [2, 3]."""
    return (blocks.unsqueeze(1) * size + torch.arange(size)).flatten()


def keep_outputs(layer: torch.nn.Linear, indices: torch.Tensor) -> None:
    """Leave these output channels, in place."""
    chosen = indices.to(layer.weight.device)
    layer.weight = _shrunk(layer.weight, layer.weight.data[chosen])
    if layer.bias is not None:
        layer.bias = _shrunk(layer.bias, layer.bias.data[chosen])
    layer.out_features = len(indices)


def keep_inputs(layer: torch.nn.Linear, indices: torch.Tensor) -> None:
    """Leave these inputs, in place."""
    chosen = indices.to(layer.weight.device)
    layer.weight = _shrunk(layer.weight, layer.weight.data[:, chosen].contiguous())
    layer.in_features = len(indices)


def _shrunk(parameter: torch.Tensor, data: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(data, requires_grad=parameter.requires_grad)


def check_config_expresses(module: torch.nn.Module) -> None:
    """Raise NotCompressedError when a model built from ``module``'s config would differ from it in
    the shape of a weight or in a setting of a decoder layer: it could then be asked here, but not
    be saved and loaded."""
    actual: Any = module
    kind = type(module).__name__
    try:
        config = type(actual.config).from_dict(actual.config.to_dict())
        with torch.device("meta"):
            twin = type(actual)(copy.deepcopy(config))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise NotCompressedError(
            f"{kind} allows no config for what would be left ({reason}). Choose another share"
        ) from error
    differences = [*_shape_differences(module, twin), *_setting_differences(module, twin)]
    if differences:
        raise NotCompressedError(
            f"layout not understood: the config of {kind} cannot say what would be left: "
            f"{differences[0]}"
        )


def _shape_differences(module: torch.nn.Module, twin: torch.nn.Module) -> Iterator[str]:
    has = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    built = {name: tuple(value.shape) for name, value in twin.state_dict().items()}
    for name in [*has, *(name for name in built if name not in has)]:
        if has.get(name) != built.get(name):
            yield f"{name} has shape {has.get(name)}, from the config {built.get(name)}"


def _setting_differences(module: torch.nn.Module, twin: torch.nn.Module) -> Iterator[str]:
    """Plain attributes of decoder layers, such as ``layer_idx``, ``head_dim``, ``is_sliding``."""
    ours, theirs = decoder_layers(module), decoder_layers(twin)
    for (name, one), (_, other) in zip(ours.named_modules(), theirs.named_modules(), strict=True):
        values, built = _settings(one), _settings(other)
        for key in sorted(values.keys() | built.keys()):
            if values.get(key) != built.get(key):
                yield (
                    f"{key} of decoder layer {name} is {values.get(key)!r}, from the config "
                    f"{built.get(key)!r}"
                )


def _settings(module: torch.nn.Module) -> dict[str, Any]:
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_")
        and key != "training"
        and (value is None or isinstance(value, bool | int | float | str))
    }
