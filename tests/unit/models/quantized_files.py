"""Tiny checkpoints by the real compressed-tensors and torchao, in block-wise FP8 by the format's
own description, and ways to spoil them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.unit.tiny_model import make_tokenizer

IDS = torch.arange(5, 25)[None]


def open_plain(directory: Path, **options: Any) -> Any:
    """As transformers opens it, on the CPU."""
    from transformers import AutoModelForCausalLM

    untyped: Any = AutoModelForCausalLM
    return untyped.from_pretrained(directory, device_map={"": "cpu"}, **options)


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module.eval()(IDS).logits
    return found


def linear_layers(module: nn.Module) -> dict[str, Any]:
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and name != "lm_head"
    }


def save_compressed_tensors(
    dense: Path, directory: Path, groups: dict[str, dict[str, Any]]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Quantize the linear layers of ``dense`` as ``groups`` (config groups) say and save them.

    Returns the library's own dequantized weights by layer, and the logits of :data:`IDS` by the
    library's own module.
    """
    quantization: Any = importlib.import_module("compressed_tensors.quantization")
    utilities: Any = importlib.import_module("compressed_tensors.quantization.utils")
    compressors: Any = importlib.import_module("compressed_tensors.compressors")
    module = open_plain(dense)
    config = quantization.QuantizationConfig(config_groups=groups, ignore=["lm_head"])
    quantization.apply_quantization_config(module, config)
    for layer in linear_layers(module).values():
        arguments, weight = layer.quantization_scheme.weights, layer.weight.data
        if arguments.strategy == "group":
            parts = weight.reshape(weight.shape[0], -1, arguments.group_size)
        else:
            rows = weight.shape[0] if arguments.strategy == "channel" else 1
            parts = weight.reshape(rows, 1, -1)
        scale, zero_point = utilities.calculate_qparams(parts.amin(-1), parts.amax(-1), arguments)
        layer.weight_scale.data.copy_(scale.reshape(layer.weight_scale.shape))
        if hasattr(layer, "weight_zero_point"):
            layer.weight_zero_point.data.copy_(zero_point.reshape(layer.weight_zero_point.shape))
        if hasattr(layer, "input_scale"):
            layer.input_scale.data.fill_(0.02)
    compressor = compressors.ModelCompressor.from_pretrained_model(module)
    compressor.compress_model(module)
    module.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    compressor.update_config(directory)
    answers = logits(module)  # At the first answer the library unpacks its own codes.
    return {name: layer.weight.data for name, layer in linear_layers(module).items()}, answers


def save_torchao(dense: Path, directory: Path, config: Any) -> tuple[Any, torch.Tensor]:
    """Quantize through transformers and save; the module, and its logits of :data:`IDS`."""
    from transformers import TorchAoConfig

    make: Any = TorchAoConfig
    module = open_plain(dense, quantization_config=make(config))
    module.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return module, logits(module)


def save_block_fp8(dense: Path, directory: Path, block: int) -> dict[str, torch.Tensor]:
    """Write ``dense`` with its linear layers in FP8, one scale for each square of ``block``.

    Returns the numbers that the codes stand for, by layer.
    """
    module = open_plain(dense)
    module.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    numbers: dict[str, torch.Tensor] = {}
    codes: dict[str, torch.Tensor] = {}
    for name, layer in linear_layers(module).items():
        rows, inputs = layer.weight.shape
        squares = layer.weight.data.reshape(rows // block, block, inputs // block, block)
        scale = squares.abs().amax((1, 3)) / torch.finfo(torch.float8_e4m3fn).max
        wide = scale[:, None, :, None]
        code = (squares / wide).to(torch.float8_e4m3fn)
        numbers[name] = (code.float() * wide).reshape(rows, inputs)
        codes[f"{name}.weight"] = code.reshape(rows, inputs).contiguous()
        codes[f"{name}.weight_scale_inv"] = scale.contiguous()
    edit_tensors(directory, lambda tensors: tensors.update(codes))
    path = directory / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [block, block],
    }
    path.write_text(json.dumps(config), "utf-8")
    return numbers


def edit_config(directory: Path, edit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Change ``quantization_config`` in ``config.json``; the whole new config."""
    path = directory / "config.json"
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    edit(config["quantization_config"])
    path.write_text(json.dumps(config), "utf-8")
    return config


def read_config(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text("utf-8"))
    return config


def edit_tensors(
    directory: Path,
    edit: Callable[[dict[str, torch.Tensor]], None],
    metadata: Callable[[dict[str, str]], dict[str, str]] = dict,
) -> None:
    """Change the tensors, and the metadata, of ``model.safetensors``."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = directory / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        before = dict(file.metadata() or {})
    edit(tensors)
    save_file(tensors, path, metadata(before))
