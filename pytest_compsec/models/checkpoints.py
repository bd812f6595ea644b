"""Turn the files of one source into a dense or already quantized module and its tokenizer.

Only safetensors and GGUF are opened, only from the staged directory, never with code from it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.bitsandbytes import import_library as import_bitsandbytes
from pytest_compsec.errors import LoadError, MissingExtraError, NotCompressedError
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.devices import read_config
from pytest_compsec.models.headers import StoredTensor, read_headers

if TYPE_CHECKING:
    import torch

_OFFLINE: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_FULL_PRECISION = frozenset({"F64", "F32", "F16", "BF16"})
_QUANTIZED_LAYERS = frozenset({"Linear4bit", "Linear8bitLt"})
_NAMES_SHOWN = 5


def open_module(arm: Arm, *, dtype: str, device: str) -> torch.nn.Module:
    """The module of ``arm.files``, without adapter and recipe, in ``dtype`` on ``device``.

    Raises LoadError when weights are missing, left over or of another shape than the architecture
    has, NotCompressedError when a checkpoint claims a quantization that its tensors do not show.
    """
    if arm.files.entry is not None:
        return _open_gguf(arm.files.directory, arm.files.entry, dtype).to(device)
    return _open_directory(arm, dtype=dtype, device=device)


def open_tokenizer(arm: Arm) -> Any:
    """The tokenizer that came with ``arm.files``. Raises LoadError when there is none."""
    from transformers import AutoTokenizer

    directory, entry = arm.files.directory, arm.files.entry
    if entry is not None:
        _check_gguf_extra(entry)
        return AutoTokenizer.from_pretrained(directory, gguf_file=entry, **_OFFLINE)
    if not any(directory.glob("tokenizer*")):
        raise LoadError(
            f"{arm.name}: there is no tokenizer beside the weights (tokenizer.json or "
            "tokenizer_config.json). Save it with tokenizer.save_pretrained(...) into the model's "
            "directory, then run `compsec pin`"
        )
    return AutoTokenizer.from_pretrained(directory, **_OFFLINE)


def is_quantized_checkpoint(arm: Arm) -> bool:
    """Whether the source's own config says that its weights are stored quantized."""
    return arm.files.entry is None and "quantization_config" in read_config(arm.files.directory)


def _open_directory(arm: Arm, *, dtype: str, device: str) -> torch.nn.Module:
    import torch

    directory = arm.files.directory
    if (directory / "adapter_config.json").exists():
        # transformers would follow it to another base model, which nothing has pinned.
        raise LoadError(
            f"{arm.name}: the directory holds an adapter (adapter_config.json), not a model. Name "
            "the base model as 'source' and this directory as its 'adapter'"
        )
    config, stored = read_config(directory), read_headers(directory)
    if (directory / "generation_config.json").exists():
        # transformers passes over a broken one in silence, and answers would then end elsewhere.
        read_config(directory, "generation_config.json")
    if not stored:
        raise LoadError(
            f"{arm.name}: there are no *.safetensors weights in the directory. Convert the model "
            "with save_pretrained(..., safe_serialization=True); pickled weights are never opened"
        )
    if "quantization_config" in config:
        _check_extra(config["quantization_config"])
        _check_stored_compressed(arm.name, config["quantization_config"], stored)
    module, info = _causal_language_model().from_pretrained(
        directory,
        dtype=getattr(torch, dtype),
        device_map={"": device},
        use_safetensors=True,
        # Reported, then refused below with the names; else transformers only logs them.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **_OFFLINE,
    )
    _check_complete(arm.name, info)
    if "quantization_config" in config:
        _check_loaded_compressed(arm.name, config["quantization_config"], stored, module)
    return module  # type: ignore[no-any-return]


def _open_gguf(directory: Path, entry: str, dtype: str) -> torch.nn.Module:
    import torch

    opened, info = _causal_language_model().from_pretrained(
        directory, gguf_file=entry, dtype=torch.float32, output_loading_info=True, **_OFFLINE
    )
    _check_complete(entry, info)
    # The weights are dense by now, but config and module still say "quantized by gguf", and
    # everything that quantizes, merges or saves refuses that. A plain module shares the tensors.
    plain = opened.config.to_dict()
    plain.pop("quantization_config", None)
    module, info = type(opened).from_pretrained(
        None,
        config=type(opened.config).from_dict(plain),
        state_dict=opened.state_dict(),
        dtype=torch.float32,
        output_loading_info=True,
    )
    _check_complete(entry, info)
    module.generation_config = opened.generation_config
    return module.to(getattr(torch, dtype))  # type: ignore[no-any-return]


def _causal_language_model() -> Any:
    """Untyped on purpose: what from_pretrained returns depends on its arguments."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


def _check_complete(name: str, info: Mapping[str, Collection[Any]]) -> None:
    """Nothing may be initialized at random, dropped or reshaped (tied weights are not missing)."""
    problems = [
        f"{label}: {_some(info[key])}"
        for key, label in (
            ("missing_keys", "not in the files, so they would be random"),
            ("mismatched_keys", "of another shape than the architecture has"),
            ("unexpected_keys", "in the files, but unknown to the architecture"),
            ("error_msgs", "errors"),
        )
        if info.get(key)
    ]
    if problems:
        raise LoadError(
            f"{name}: the weights do not fit the architecture in config.json. "
            + "; ".join(problems)
            + ". Fetch or save the model again, complete, then run `compsec pin`"
        )


def _some(values: Iterable[Any]) -> str:
    names = sorted(str(value[0]) if isinstance(value, tuple) else str(value) for value in values)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _check_gguf_extra(entry: str) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf", "gguf", f"loading the GGUF file {entry}")


def _check_extra(quantization: Mapping[str, Any]) -> None:
    method = str(quantization.get("quant_method", ""))
    if method != "bitsandbytes" and "load_in_4bit" not in quantization:
        return
    try:
        import_bitsandbytes()
    except ImportError as error:
        raise MissingExtraError(
            "bitsandbytes", "bitsandbytes", "loading a checkpoint saved by bitsandbytes"
        ) from error


def _check_stored_compressed(
    name: str, quantization: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> None:
    """Before loading: among the stored matrices there must be some that are no plain floats.

    A loader may quantize full-precision tensors on the fly when the config says quantized, and the
    module in memory would then hide that what was saved, and is deployed, is not compressed.
    """
    matrices = {key: tensor for key, tensor in stored.items() if len(tensor.shape) >= 2}
    if all(tensor.dtype in _FULL_PRECISION for tensor in matrices.values()):
        raise _still_full_precision(name, quantization, sorted(matrices))


def _check_loaded_compressed(
    name: str,
    quantization: Mapping[str, Any],
    stored: Mapping[str, StoredTensor],
    module: torch.nn.Module,
) -> None:
    """After loading: no layer that computes quantized may come from a plain float tensor."""
    prefix = str(getattr(module, "base_model_prefix", "")) + "."
    dense = []
    for layer_name, layer in module.named_modules():
        if type(layer).__name__ not in _QUANTIZED_LAYERS:
            continue
        key = f"{layer_name}.weight"
        tensor = stored.get(key) or stored.get(key.removeprefix(prefix))
        if tensor is not None and tensor.dtype in _FULL_PRECISION:
            dense.append(key)
    if dense:
        raise _still_full_precision(name, quantization, dense)


def _still_full_precision(
    name: str, quantization: Mapping[str, Any], matrices: Collection[str]
) -> NotCompressedError:
    return NotCompressedError(
        f"{name}: saved after quantization but still full precision. config.json says quantized "
        f"by {quantization.get('quant_method', 'an unknown method')}, but {len(matrices)} weight "
        f"matrices in the files are plain floats: {_some(matrices)}. Save the quantized module "
        "itself, or remove 'quantization_config' from config.json"
    )
