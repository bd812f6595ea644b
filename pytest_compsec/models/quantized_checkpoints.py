"""Checkpoints that compressed-tensors or torchao wrote, and FP8 ones in blocks: checked before
loading, opened through transformers, checked again.

transformers believes ``config.json``. Where that does not describe the tensors, it loads noise, or
full-precision weights, without a word; so each field that says how the weights are stored is held
against the files first. What each library stores is told in
:mod:`pytest_compsec.models.stored_codes`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import LoadError, MissingExtraError, NotCompressedError
from pytest_compsec.models.quiet import quiet
from pytest_compsec.models.stored_codes import Checkpoint, Codes, read_checkpoint
from pytest_compsec.models.weight_schemes import (
    Scheme,
    block_fp8_schemes,
    compressed_tensors_schemes,
    torchao_schemes,
)

if TYPE_CHECKING:
    import torch

# quant_method -> the package that transformers needs for it, if any; the extra has its name.
PACKAGES: Mapping[str, str | None] = {
    "compressed-tensors": "compressed-tensors",
    "torchao": "torchao",
    "fp8": None,
}
_SCHEMES: Mapping[str, Callable[[Mapping[str, Any]], tuple[Scheme, ...]]] = {
    "compressed-tensors": compressed_tensors_schemes,
    "torchao": torchao_schemes,
    "fp8": block_fp8_schemes,
}
_NOT_LINEAR = re.compile(r"(^|\.)(embed_tokens|embed_in|embed_out|wte|wpe|lm_head|output)\.weight$")
_NAMES_SHOWN = 3


def prepare(name: str, directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Before loading: what ``from_pretrained`` must be given besides its usual arguments.

    ``name`` is the arm's, ``config`` the content of ``config.json``. Empty for a checkpoint of any
    method not in :data:`PACKAGES`. Raises MissingExtraError; LoadError, naming file and field,
    when ``quantization_config`` does not describe the stored tensors; NotCompressedError when a
    layer's codes take more values than its bits allow.
    """
    quantization = _quantization(config)
    method = str(quantization.get("quant_method", ""))
    if method == "hqq":
        raise LoadError(
            f"{name}: config.json, 'quantization_config.quant_method': hqq checkpoints cannot be "
            f"opened by transformers {importlib.metadata.version('transformers')} ('HQQ is not "
            "available yet'). Name the full-precision model as 'source' and derive the variant "
            "with quantize: {method: hqq}"
        )
    if method not in PACKAGES:
        return {}
    schemes = _schemes(name, quantization)
    package = PACKAGES[method]
    if package is not None and importlib.util.find_spec(package.replace("-", "_")) is None:
        raise MissingExtraError(package, package, f"loading a checkpoint saved by {package}")
    checkpoint = read_checkpoint(directory)
    for codes in checkpoint.codes.values():
        _check_codes(name, checkpoint, codes, schemes)
    if method == "compressed-tensors" and _only_weights(quantization):
        from transformers import CompressedTensorsConfig

        # The same weights, unpacked while they are read: transformers has no room for the packed
        # zero points of an asymmetric checkpoint, and unpacks at the first answer anyway.
        make: Any = CompressedTensorsConfig  # Its constructor has no types.
        return {"quantization_config": make(dequantize=True)}
    if method == "fp8":
        from transformers import FineGrainedFP8Config

        # On a GPU transformers would fetch compiled code from the hub for it, which nothing pins.
        make = FineGrainedFP8Config
        kept = quantization.get("modules_to_not_convert")
        return {"quantization_config": make(dequantize=True, modules_to_not_convert=kept)}
    return {}


def finish(name: str, directory: Path, config: Mapping[str, Any], module: torch.nn.Module) -> None:
    """After loading: unpack what the library would unpack at the first answer, so that what is
    measured is what answers, and check that every layer to be quantized was.

    Does nothing for a checkpoint of any method not in :data:`PACKAGES`. Raises NotCompressedError.
    """
    quantization = _quantization(config)
    method = str(quantization.get("quant_method", ""))
    if method not in PACKAGES:
        return
    stored = {_bare(layer, module) for layer in read_checkpoint(directory).codes}
    dense = [
        layer
        for layer in _layers_to_quantize(quantization, module)
        if _bare(layer, module) not in stored
    ]
    if dense:
        shown = ", ".join(dense[:_NAMES_SHOWN])
        more = f" and {len(dense) - _NAMES_SHOWN} more" if len(dense) > _NAMES_SHOWN else ""
        raise NotCompressedError(
            f"{name}: saved after quantization but still full precision. config.json, "
            f"'quantization_config', says that {method} quantized {len(dense)} layers of which the "
            f"files hold no codes: {shown}{more}. Save the quantized module itself, or name these "
            "layers as not quantized"
        )
    quantizer = getattr(module, "hf_quantizer", None)
    compressor = getattr(quantizer, "compressor", None)
    if compressor is not None and hasattr(module, "ct_decompress_hook"):
        with quiet():
            compressor.decompress_model(module)


def stored_bits(directory: Path) -> float | None:
    """Mean bits per weight, scales and zero points included, of the linear layers in the files of
    a directory; None where none of :data:`PACKAGES` stored anything in it.

    Layers that were left in full precision count with what they take.
    """
    checkpoint = read_checkpoint(directory)
    if not checkpoint.codes:
        return None
    size = sum(codes.stored_bytes for codes in checkpoint.codes.values())
    weights = sum(codes.elements for codes in checkpoint.codes.values())
    for key, tensor in checkpoint.plain.items():
        if len(tensor.shape) >= 2 and not _NOT_LINEAR.search(key):
            size += tensor.bytes
            weights += tensor.elements
    return 8 * size / weights


def _quantization(config: Mapping[str, Any]) -> Mapping[str, Any]:
    quantization = config.get("quantization_config")
    return quantization if isinstance(quantization, Mapping) else {}


def _schemes(name: str, quantization: Mapping[str, Any]) -> tuple[Scheme, ...]:
    try:
        return _SCHEMES[quantization["quant_method"]](quantization)
    except ValueError as error:
        raise LoadError(f"{name}: config.json, {error}") from error


def _check_codes(
    name: str, checkpoint: Checkpoint, codes: Codes, schemes: tuple[Scheme, ...]
) -> None:
    """The codes of one layer must be what at least one scheme of the config says."""
    problems = [codes.contradiction(scheme) for scheme in schemes]
    if None not in problems:
        # With several schemes, the one that fails last (by its fields) is the closest.
        problem = max((p for p in problems if p is not None), key=lambda p: p.rank)
        raise LoadError(
            f"{name}: config.json does not describe {codes.file}: '{problem.field}' says "
            f"{problem.said}, but {codes.key} holds {problem.found}. The checkpoint was edited or "
            "mixed from two: save it again with the tool that quantized it"
        )
    bits = max(s.bits for s, p in zip(schemes, problems, strict=True) if p is None)
    excess = checkpoint.excess(codes, bits)
    if excess is not None:
        raise NotCompressedError(
            f"{name}: not compressed as config.json says: {codes.key} in {codes.file} is to hold "
            f"codes of {bits} bits, and holds the codes {excess[0]} to {excess[1]}, which need more"
        )


def _only_weights(quantization: Mapping[str, Any]) -> bool:
    """One scheme, without rounding of activations: all that it does is in the weights."""
    groups = list(quantization["config_groups"].values())
    return len(groups) == 1 and not any(
        groups[0].get(key) for key in ("input_activations", "output_activations")
    )


def _layers_to_quantize(quantization: Mapping[str, Any], module: torch.nn.Module) -> list[str]:
    import torch

    from pytest_compsec.models.weights import output_embedding

    linear = [
        (layer_name, layer)
        for layer_name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    if quantization["quant_method"] != "compressed-tensors":
        kept = tuple(quantization.get("modules_to_not_convert") or ())
        output = output_embedding(module)
        return [
            layer_name
            for layer_name, layer in linear
            if layer is not output
            and not any(re.search(rf"(^|\.){re.escape(part)}(\.|$)", layer_name) for part in kept)
            and not _per_layer(quantization)
        ]
    is_match = importlib.import_module("compressed_tensors.utils.match").is_match
    targets = [t for group in quantization["config_groups"].values() for t in group["targets"]]
    ignored = list(quantization.get("ignore") or ())
    return [
        layer_name for layer_name, layer in linear if is_match(layer_name, layer, targets, ignored)
    ]


def _per_layer(quantization: Mapping[str, Any]) -> bool:
    """Whether torchao was told layer by layer what to do, and may have left any of them alone."""
    return "FqnToConfig" in str(quantization.get("quant_type"))


def _bare(layer: str, module: torch.nn.Module) -> str:
    prefix = str(getattr(module, "base_model_prefix", "")) + "."
    return layer.removeprefix(prefix)
