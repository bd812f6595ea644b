"""Merge a LoRA adapter (Hu et al. 2021, arXiv 2106.09685) into the model that it was made for.

The merge is done layer by layer in float32, whatever the run's float type, and rounded once to the
checkpoint's own type: the merged weights are the same on every machine and every device.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.bitsandbytes import import_library as import_bitsandbytes
from pytest_compsec.errors import LoadError, MissingExtraError
from pytest_compsec.models.arm import StagedFiles

if TYPE_CHECKING:
    import torch

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAMES_SHOWN = 3


def merge_adapter(module: torch.nn.Module, adapter: StagedFiles, name: str) -> torch.nn.Module:
    """Return ``module`` with the adapter merged in; ``module`` itself is used up.

    Raises LoadError when the adapter is no LoRA in safetensors, does not fit the model, or changes
    nothing; MissingExtraError without peft.
    """
    peft = _library()
    config = _config(peft, adapter, name)
    weights, tied = _weights(adapter, name), _tied_weight(module)
    try:
        wrapped = peft.PeftModel(module, config, adapter_name="default")
    except ValueError as error:
        raise LoadError(
            f"{name}: the adapter does not fit the model: {error}. Was it trained for another one?"
        ) from error
    result = peft.set_peft_model_state_dict(wrapped, weights, adapter_name="default")
    missing = [key for key in result.missing_keys if "lora_" in key]
    for keys, what in ((missing, "lacks"), (list(result.unexpected_keys), "has, unknown to it,")):
        if keys:
            raise LoadError(
                f"{name}: the adapter does not fit the model: it {what} {len(keys)} of the tensors "
                f"that the model's layers take: {', '.join(keys[:_NAMES_SHOWN])}"
            )
    if _merge_layers(wrapped, tied, name) == 0:
        raise LoadError(
            f"{name}: the adapter changes no weight of the model. Was it saved before training?"
        )
    merged = wrapped.merge_and_unload()
    merged.eval()
    return merged  # type: ignore[no-any-return]


def _library() -> Any:
    with contextlib.suppress(ImportError):
        import_bitsandbytes()  # peft imports it where it is installed.
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise MissingExtraError("peft", "adapters", "a model's 'adapter'") from error


def _config(peft: Any, adapter: StagedFiles, name: str) -> Any:
    path = adapter.directory / _CONFIG
    try:
        values = json.loads(path.read_text("utf-8"))
        kind = values["peft_type"]
    except FileNotFoundError:
        raise LoadError(f"{name}: the adapter has no {_CONFIG}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{name}: the adapter's {_CONFIG} cannot be read: {error!r}") from error
    if kind != "LORA":
        raise LoadError(f"{name}: the adapter is {kind}, and only LORA adapters can be merged")
    config = peft.LoraConfig.from_pretrained(str(adapter.directory))
    # Whatever base model the adapter names, it is merged into the one that the lock pins.
    config.base_model_name_or_path = None
    config.inference_mode = True
    # Ways to initialize that would rewrite the base model; the trained values replace them anyway.
    config.init_lora_weights = True
    return config


def _weights(adapter: StagedFiles, name: str) -> dict[str, torch.Tensor]:
    path = adapter.directory / _WEIGHTS
    if not path.exists():
        raise LoadError(
            f"{name}: the adapter has no {_WEIGHTS}. Save it with save_pretrained(..., "
            "safe_serialization=True); pickled adapters are never opened"
        )
    from safetensors.torch import load_file

    return dict(load_file(path, device="cpu"))


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
