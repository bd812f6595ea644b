"""Turn the files of one source into a dense or already quantized module and its tokenizer.

Only safetensors and GGUF are opened, only from the staged directory, never with code from it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.bitsandbytes import import_library as import_bitsandbytes
from pytest_compsec.errors import LoadError, MissingExtraError, NotCompressedError
from pytest_compsec.models import bitsandbytes_files, quantized_checkpoints
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.casting import cast_floats
from pytest_compsec.models.completeness import check_complete, some
from pytest_compsec.models.devices import read_config
from pytest_compsec.models.headers import StoredTensor, read_headers, weight_files
from pytest_compsec.models.packed import route
from pytest_compsec.models.packed.layers import inventory
from pytest_compsec.models.packed.opening import open_packed
from pytest_compsec.models.packed.settings import Quantization, packed_settings, quantization_of

if TYPE_CHECKING:
    import torch

_OFFLINE: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_FULL_PRECISION = frozenset({"F64", "F32", "F16", "BF16"})
_QUANTIZED_LAYERS = frozenset({"Linear4bit", "Linear8bitLt"})
# The package that transformers needs to read a checkpoint of this method, and the extra that
# brings it. GPTQ and AWQ are not here: without gptqmodel they are unpacked (models.packed).
_NEEDED: Mapping[str, tuple[str, str]] = {
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "torchao": ("torchao", "torchao"),
}


def open_module(arm: Arm, *, dtype: str, device: str) -> torch.nn.Module:
    """The module of ``arm.files``, without adapter and recipe, in ``dtype`` on ``device``.

    Raises LoadError when weights are missing, left over or of another shape than the architecture
    has, NotCompressedError when a checkpoint claims a quantization that its tensors do not show.
    """
    if arm.files.entry is not None:
        return open_gguf(arm.files.directory, arm.files.entry, dtype).to(device)
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
    # transformers asks config.json for the tokenizer's class and stumbles over a broken one.
    quantization_of(directory)
    return AutoTokenizer.from_pretrained(directory, **_OFFLINE)


def is_quantized_checkpoint(arm: Arm) -> bool:
    """Whether the source's own config says that its weights are stored quantized."""
    if arm.files.entry is not None or arm.code is not None:
        return False
    return quantization_of(arm.files.directory) is not None


def _open_directory(arm: Arm, *, dtype: str, device: str) -> torch.nn.Module:
    import torch

    directory = arm.files.directory
    if (directory / "adapter_config.json").exists():
        # transformers would follow it to another base model, which nothing has pinned.
        raise LoadError(
            f"{arm.name}: the directory holds an adapter (adapter_config.json), not a model. Name "
            "the base model as 'source' and this directory as its 'adapter'"
        )
    config = read_config(directory)
    # What transformers will open and nothing else: a file beside it says nothing of the model.
    stored = read_headers(directory, weight_files(directory))
    if (directory / "generation_config.json").exists():
        # transformers passes over a broken one in silence, and answers would then end elsewhere.
        read_config(directory, "generation_config.json")
    quantization = quantization_of(directory)
    options: dict[str, Any] = {}
    if quantization is not None:
        _check_stored_compressed(arm.name, quantization, stored)
        options = quantized_checkpoints.prepare(arm.name, directory, config)
        _check_readable(arm.name, quantization)
        if quantization.method == "bitsandbytes":
            bitsandbytes_files.check(arm.name, directory, quantization, stored)
    packed = packed_settings(directory)
    if packed is not None:
        found = inventory(directory, packed)
        # transformers looks nowhere but in config.json.
        if "quantization_config" not in config or not route.uses_gptqmodel(device):
            return open_packed(arm.name, directory, packed, found, dtype=dtype, device=device)
    module, info = _causal_language_model().from_pretrained(
        directory,
        dtype=getattr(torch, dtype),
        device_map={"": device},
        use_safetensors=True,
        # Reported, then refused below with the names; else transformers only logs them.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **options,
        **_OFFLINE,
    )
    check_complete(arm.name, info)
    if quantization is None:
        _check_stored_as_floats(arm.name, stored, module)
    else:
        _check_loaded_compressed(arm.name, quantization, stored, module)
    quantized_checkpoints.finish(arm.name, directory, config, module)
    return module  # type: ignore[no-any-return]


def open_gguf(directory: Path, entry: str, dtype: str) -> torch.nn.Module:
    """The module of one GGUF file, its weights unpacked, on the CPU."""
    import torch

    opened, info = _causal_language_model().from_pretrained(
        directory, gguf_file=entry, dtype=torch.float32, output_loading_info=True, **_OFFLINE
    )
    check_complete(entry, info)
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
    check_complete(entry, info)
    module.generation_config = opened.generation_config
    return cast_floats(module, getattr(torch, dtype))


def _causal_language_model() -> Any:
    """Untyped on purpose: what from_pretrained returns depends on its arguments."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


def _check_gguf_extra(entry: str) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf", "gguf", f"loading the GGUF file {entry}")


def _check_readable(name: str, quantization: Quantization) -> None:
    """The method is one that transformers knows, and the package that reads it is installed.

    Said here with the names, because transformers passes over a method that it does not know.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    # bitsandbytes is registered once for 4 and once for 8 bits.
    known = {
        "bitsandbytes" if key.startswith("bitsandbytes_") else key
        for key in AUTO_QUANTIZATION_CONFIG_MAPPING
        if key != "hqq"  # registered, and refused when it is opened
    }
    method = quantization.method
    if method not in known:
        said = f"is {method!r}, which" if method else "is missing, and a method without a name"
        raise LoadError(
            f"{name}: {quantization.where}quant_method {said} transformers "
            f"{importlib.metadata.version('transformers')} cannot read. Supported: "
            f"{', '.join(sorted(known))}. Save the model again by one of them"
        )
    package, extra = _NEEDED.get(method, ("", ""))
    purpose = f"loading a checkpoint saved by {method}"
    if method == "bitsandbytes":
        try:
            import_bitsandbytes()
        except ImportError as error:
            raise MissingExtraError(package, extra, purpose) from error
    elif package and importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, extra, purpose)


def _check_stored_compressed(
    name: str, quantization: Quantization, stored: Mapping[str, StoredTensor]
) -> None:
    """Before loading: among the stored matrices there must be some that are no plain floats.

    A loader may quantize full-precision tensors on the fly when the config says quantized, and the
    module in memory would then hide that what was saved, and is deployed, is not compressed.
    """
    matrices = {key: tensor for key, tensor in stored.items() if len(tensor.shape) >= 2}
    if all(tensor.dtype in _FULL_PRECISION for tensor in matrices.values()):
        raise _still_full_precision(name, quantization, sorted(matrices))


def _check_stored_as_floats(
    name: str, stored: Mapping[str, StoredTensor], module: torch.nn.Module
) -> None:
    """After loading: no float weight may come from integers or 8-bit floats, which are codes
    and mean nothing without the scales that a quantization config tells of."""
    parameters = dict(module.named_parameters())
    prefix = str(getattr(module, "base_model_prefix", "")) + "."
    for key, tensor in stored.items():
        parameter = parameters.get(key, parameters.get(prefix + key))
        if (
            parameter is not None
            and parameter.is_floating_point()
            and tensor.dtype.startswith(("I", "U", "BOOL", "F8"))
        ):
            raise LoadError(
                f"{name}: {tensor.file}: {key} is stored as {tensor.dtype}, and config.json has no "
                "'quantization_config' that says what these codes stand for. Save the model "
                "again with the tool that quantized it"
            )


def _check_loaded_compressed(
    name: str,
    quantization: Quantization,
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
    name: str, quantization: Quantization, matrices: Collection[str]
) -> NotCompressedError:
    return NotCompressedError(
        f"{name}: saved after quantization but still full precision. {quantization.file} says "
        f"quantized by {quantization.method or 'an unknown method'}, but {len(matrices)} weight "
        f"matrices in the files are plain floats: {some(matrices)}. Save the quantized module "
        "itself, or remove the claim ('quantization_config' in config.json, quantize_config.json)"
    )
