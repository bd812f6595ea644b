"""A LoRA adapter put on a compressed model, and taken off again. It is not merged.

Merging would need the weights in full precision, and rounding them anew would undo what the
adapter learned. So each adapted layer computes ``base(x) + scaling · B(A(x))`` (Hu et al. 2021,
arXiv 2106.09685) beside the compressed weights, which stay bit for bit what they were: as QLoRA
(Dettmers et al. 2023, arXiv 2305.14314) trains, and as such a model is served.

Base weights are called ``….base_layer.weight`` afterwards, and the matrices of the adapter are
linear layers themselves. Measure a compression before the adapter is attached.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import LoadError
from pytest_compsec.models.adapter_files import (
    changes_nothing,
    does_not_fit,
    peft_library,
    read_adapter_config,
    read_adapter_weights,
    require_complete,
)
from pytest_compsec.models.arm import StagedFiles
from pytest_compsec.models.quiet import quiet

if TYPE_CHECKING:
    import torch

ADAPTER = "default"
_IN_FILE = "base_model.model."  # What peft's files have in front of every name.


def attach_adapter(module: torch.nn.Module, adapter: StagedFiles, name: str) -> torch.nn.Module:
    """Put ``adapter`` on the layers of ``module``, in place, and return ``module``: still a model
    of its own class, in evaluation mode, without gradients, computing in its own float type.

    ``name`` is the arm's, for messages. Raises LoadError when the adapter is no plain LoRA in
    safetensors, does not fit the model, changes nothing, or is as large as the layers that it is
    on; MissingExtraError without peft.
    """
    peft = peft_library()
    config = read_adapter_config(peft, adapter, name)
    _require_plain(config, name)
    weights = read_adapter_weights(adapter, name)
    try:
        with quiet():
            peft.inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    except (RuntimeError, ValueError, TypeError) as error:
        raise does_not_fit(name, error) from error
    set_adapter_dtype(module, compute_dtype(module))
    _set_tensors(module, weights, name)
    if not any(_has_effect(layer) for _, layer in adapted_layers(module)):
        raise changes_nothing(name)
    require_smaller(module, name)
    return module.eval().requires_grad_(False)


def detach_adapter(module: torch.nn.Module) -> int:
    """Take the adapter off again, in place: every layer is the object that it was before. Returns
    how many layers had one."""
    layers = list(adapted_layers(module))
    for name, layer in layers:
        module.set_submodule(name, layer.get_base_layer())
    if layers and hasattr(module, "peft_config"):
        del module.peft_config
    return len(layers)


def adapted_layers(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and wrapper of each layer that an adapter is on."""
    peft_library()
    kind = importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer
    for name, layer in list(module.named_modules()):
        if isinstance(layer, kind):
            yield name, layer


def adapter_parameters(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters of the adapter on ``module``, in the module's order."""
    return [parameter for name, parameter in module.named_parameters() if "lora_" in name]


def adapter_tensors(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters of the adapter on ``module`` under the names that its file gives them.

    Not by peft's own functions, which ask for the state of the whole module: bitsandbytes then
    rewrites layers that have answered, and some come out wrong (see
    :mod:`pytest_compsec.compression.gradients`).
    """
    return {
        _IN_FILE + re.sub(rf"(lora_\w+)\.{ADAPTER}", r"\1", name): parameter
        for name, parameter in module.named_parameters()
        if "lora_" in name
    }


def set_adapter_dtype(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast the adapter's matrices, whatever type peft chose for them (float32 over integers)."""
    for parameter in adapter_parameters(module):
        parameter.data = parameter.data.to(dtype)


def compute_dtype(module: torch.nn.Module) -> torch.dtype:
    """The float type of what is not compressed: norms and embeddings. float32 if there is none."""
    import torch

    for name, parameter in module.named_parameters():
        if "lora_" not in name and parameter.is_floating_point():
            return parameter.dtype
    return torch.float32


def _require_plain(config: Any, name: str) -> None:
    """Only matrices beside compressed layers: anything else would change the compressed weights
    themselves, or need them in full precision."""
    found = [
        option
        for option, value in (
            ("use_dora", config.use_dora),
            ("modules_to_save", config.modules_to_save),
            ("bias", config.bias != "none"),
            ("trainable_token_indices", getattr(config, "trainable_token_indices", None)),
            ("target_parameters", getattr(config, "target_parameters", None)),
        )
        if value
    ]
    if found:
        raise LoadError(
            f"{name}: the adapter's adapter_config.json sets {' and '.join(map(repr, found))}; on "
            "a compressed model only plain LoRA matrices can be attached"
        )


def _set_tensors(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], name: str) -> None:
    wanted = adapter_tensors(module)
    require_complete(
        sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys()), name
    )
    for key, parameter in wanted.items():
        found = weights[key]
        if found.shape != parameter.shape:
            sizes = f"{key} is {tuple(found.shape)}, the model's layer takes"
            raise does_not_fit(name, ValueError(f"{sizes} {tuple(parameter.shape)}"))
        parameter.data = found.to(device=parameter.device, dtype=parameter.dtype)


def require_smaller(module: torch.nn.Module, name: str) -> None:
    """Raise LoadError when the adapter on ``module`` takes as many numbers as the layers that it is
    on: it can then undo their compression altogether, and what answers is an uncompressed model,
    whatever the codes beneath hold."""
    held = sum(parameter.numel() for parameter in adapter_parameters(module))
    beneath = sum(_inputs_and_outputs(layer) for _, layer in adapted_layers(module))
    if held >= beneath:
        raise LoadError(
            f"{name}: the adapter holds {held:,} numbers, and the layers that it is on hold "
            f"{beneath:,} weights: it could replace them, so nothing is compressed. Train one of "
            "a lower rank"
        )


def _inputs_and_outputs(layer: Any) -> int:
    """The number of weights of an adapted layer, however they are packed."""
    return int(layer.in_features) * int(layer.out_features)


def _has_effect(layer: Any) -> bool:
    """Whether B·A is not zero everywhere: an adapter as it is before training has B = 0."""
    if not layer.scaling.get(ADAPTER):
        return False
    first, second = layer.lora_A, layer.lora_B
    if ADAPTER in first:
        product = second[ADAPTER].weight.detach().float() @ first[ADAPTER].weight.detach().float()
        return bool(product.any())
    if ADAPTER in getattr(layer, "lora_embedding_A", {}):
        product = (
            layer.lora_embedding_B[ADAPTER].detach().float()
            @ layer.lora_embedding_A[ADAPTER].detach().float()
        )
        return bool(product.any())
    return False
