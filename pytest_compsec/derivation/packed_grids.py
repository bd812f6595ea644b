"""The grid of every layer of a checkpoint in the AutoGPTQ format: its scales."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pytest_compsec.derivation.grids import RoundedMatrix
from pytest_compsec.models.packed.layers import inventory

if TYPE_CHECKING:
    from pytest_compsec.models.packed.settings import PackedSettings


def gptq_matrices(
    directory: Path, settings: PackedSettings, module: torch.nn.Module
) -> dict[str, RoundedMatrix]:
    """By the layer's name in ``module``. The scale of a group is the distance between neighbouring
    values. Raises LoadError as the loader does."""
    from safetensors import safe_open

    found = inventory(directory, settings)
    names = dict(module.named_modules())
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    matrices = {}
    with contextlib.ExitStack() as stack:
        files = {
            file: stack.enter_context(safe_open(directory / file, framework="pt", device="cpu"))
            for file in set(found.files.values())
        }
        for layer in found.layers.values():
            scales = files[found.files[f"{layer.name}.scales"]].get_tensor(f"{layer.name}.scales")
            key = f"{layer.name}.g_idx"
            groups = (
                files[found.files[key]].get_tensor(key).long()
                if layer.has_group_index
                else torch.arange(layer.inputs) // layer.group_size
            )
            step = scales.float().abs()[groups].t()
            name = layer.name if layer.name in names else layer.name.removeprefix(prefix)
            reach = step * (2**layer.bits - 1)
            matrices[name] = RoundedMatrix(step / 2, step / 2, reach, groups, "compensating")
    return matrices
