"""A LoRA adapter's files (Hu et al. 2021, arXiv 2106.09685): opened, and held to what they claim.

Both ways of using an adapter, merged into a dense model and attached to a compressed one, read it
here, so that the two refuse the same things.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.bitsandbytes import import_library as import_bitsandbytes
from pytest_compsec.errors import LoadError, MissingExtraError
from pytest_compsec.models.arm import StagedFiles

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAMES_SHOWN = 3


def peft_library() -> Any:
    """peft, imported so that bitsandbytes takes no code from the hub. Raises MissingExtraError."""
    with contextlib.suppress(ImportError):
        import_bitsandbytes()  # peft imports it where it is installed.
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise MissingExtraError("peft", "adapters", "a model's 'adapter'") from error


def read_adapter_config(peft: Any, adapter: StagedFiles, name: str) -> Any:
    """The adapter's ``LoraConfig``, for inference, with nothing in it that would name or rewrite a
    base model. Raises LoadError for another kind of adapter, or an unreadable file."""
    path = adapter.directory / CONFIG
    try:
        values = json.loads(path.read_text("utf-8"))
        kind = values["peft_type"]
    except FileNotFoundError:
        raise LoadError(f"{name}: the adapter has no {CONFIG}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{name}: the adapter's {CONFIG} cannot be read: {error!r}") from error
    if kind != "LORA":
        raise LoadError(f"{name}: the adapter is {kind}, and only LORA adapters can be merged")
    config = peft.LoraConfig.from_pretrained(str(adapter.directory))
    # Whatever base model the adapter names, it goes on the one that the lock pins.
    config.base_model_name_or_path = None
    config.inference_mode = True
    # Ways to initialize that would rewrite the base model; the trained values replace them anyway.
    config.init_lora_weights = True
    return config


def read_adapter_weights(adapter: StagedFiles, name: str) -> dict[str, torch.Tensor]:
    """The tensors of the adapter's safetensors file, on the CPU. Raises LoadError without
    one, or when it cannot be read."""
    path = adapter.directory / WEIGHTS
    if not path.exists():
        raise LoadError(
            f"{name}: the adapter has no {WEIGHTS}. Save it with save_pretrained(..., "
            "safe_serialization=True); pickled adapters are never opened"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path, device="cpu"))
    except (SafetensorError, OSError) as error:
        raise LoadError(
            f"{name}: the adapter's {WEIGHTS} cannot be read, it is truncated or corrupted "
            f"({error}). Save the adapter again, then run `compsec pin`"
        ) from error


def does_not_fit(name: str, error: Exception) -> LoadError:
    """The error for an adapter whose target layers the model does not have."""
    return LoadError(
        f"{name}: the adapter does not fit the model: {error}. Was it trained for another one?"
    )


def changes_nothing(name: str) -> LoadError:
    """The error for an adapter that leaves every weight as it was."""
    return LoadError(
        f"{name}: the adapter changes no weight of the model. Was it saved before training?"
    )


def require_complete(missing: Iterable[str], unexpected: Iterable[str], name: str) -> None:
    """Raise LoadError when the model's adapted layers lack tensors, or some fit no layer."""
    absent = [key for key in missing if "lora_" in key]
    for keys, what in ((absent, "lacks"), (list(unexpected), "has, unknown to it,")):
        if keys:
            raise LoadError(
                f"{name}: the adapter does not fit the model: it {what} {len(keys)} of the tensors "
                f"that the model's layers take: {', '.join(keys[:_NAMES_SHOWN])}"
            )
