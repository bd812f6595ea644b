"""Merge a LoRA adapter (Hu et al. 2021, arXiv 2106.09685) into the model that it was made for.

The merge is done layer by layer in float32, whatever the run's float type, and rounded once to the
checkpoint's own type: the merged weights are the same on every machine and every device.
"""

from __future__ import annotations

import importlib
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

if TYPE_CHECKING:
    import torch

_library = peft_library


def merge_adapter(module: torch.nn.Module, adapter: StagedFiles, name: str) -> torch.nn.Module:
    """Return ``module`` with the adapter merged in; ``module`` itself is used up.

    Raises LoadError when the adapter is no LoRA in safetensors, does not fit the model, or changes
    nothing; MissingExtraError without peft.
    """
    peft = peft_library()
    config = read_adapter_config(peft, adapter, name)
    weights, tied = read_adapter_weights(adapter, name), _tied_weight(module)
    try:
        wrapped = peft.PeftModel(module, config, adapter_name="default")
    except ValueError as error:
        raise does_not_fit(name, error) from error
    result = peft.set_peft_model_state_dict(wrapped, weights, adapter_name="default")
    require_complete(result.missing_keys, result.unexpected_keys, name)
    if _merge_layers(wrapped, tied, name) == 0:
        raise changes_nothing(name)
    merged = wrapped.merge_and_unload()
    merged.eval()
    return merged  # type: ignore[no-any-return]


def _tied_weight(module: Any) -> torch.Tensor | None:
    """The one matrix that both turns tokens into vectors and vectors into logits, or None."""
    first, last = module.get_input_embeddings(), module.get_output_embeddings()
    weight: torch.Tensor | None = getattr(first, "weight", None)
    return weight if weight is getattr(last, "weight", None) else None


def _merge_layers(wrapped: torch.nn.Module, tied: torch.Tensor | None, name: str) -> int:
    """Merge each adapted layer in float32; return how many changed."""
    import torch

    layers = importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer
    changed = 0
    layer: Any
    for layer in wrapped.modules():
        if not isinstance(layer, layers):
            continue
        base = layer.get_base_layer()
        if tied is not None and base.weight is tied:
            raise LoadError(
                f"{name}: the adapter changes one of input and output embedding, whose weights are "
                "tied: merging would change both. Name a merged model as 'source' instead"
            )
        before, dtype = base.weight.detach().clone(), base.weight.dtype
        base.to(torch.float32)
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise LoadError(f"{name}: the adapter cannot be merged: {error}") from error
        base.to(dtype)
        changed += not torch.equal(base.weight, before)
    return changed
