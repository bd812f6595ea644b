"""Packed checkpoint -> plain transformers module with dense weights.

One layer is unpacked at a time, on the device where the model will be, and the module then takes
the tensors over without a copy: memory peaks at the dense model and one layer's working copies.
The module's config says nothing of a quantization, so whatever measures, merges or saves it sees
dense weights; what the files hold is what :mod:`pytest_compsec.models.stored` reports.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import LoadError
from pytest_compsec.models.completeness import check_complete
from pytest_compsec.models.packed import awq, gptq
from pytest_compsec.models.packed.layers import Inventory, PackedLayer
from pytest_compsec.models.packed.settings import PackedSettings
from pytest_compsec.models.weights import output_embedding

if TYPE_CHECKING:
    import torch

_FETCH = "Fetch it again, then run `compsec pin`"


def open_packed(
    name: str,
    directory: Path,
    settings: PackedSettings,
    found: Inventory,
    *,
    dtype: str,
    device: str,
) -> torch.nn.Module:
    """The model of ``directory``, every packed layer dense, in ``dtype`` on ``device``.

    ``found`` is the directory's inventory, ``name`` what messages call the model. Raises LoadError
    when a file cannot be read, a tensor makes no sense, or the weights are not exactly those that
    the architecture needs.
    """
    import torch

    plain = _plain_config(directory)
    skeleton = _skeleton(plain)
    _check_output_layer(name, skeleton, plain, settings, found)
    with _Files(name, directory, found.files) as files:
        state = _dense_state(skeleton, settings, found, files, getattr(torch, dtype), device)
    open_class: Any = type(skeleton)  # What from_pretrained returns depends on its arguments.
    module, info = open_class.from_pretrained(
        None,
        config=plain,
        state_dict=state,
        dtype=getattr(torch, dtype),
        device_map={"": device},
        # Reported, then refused below with the names; else transformers only logs them.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    check_complete(name, info)
    if (directory / "generation_config.json").exists():
        from transformers import GenerationConfig

        module.generation_config = GenerationConfig.from_pretrained(
            directory, local_files_only=True
        )
    return module  # type: ignore[no-any-return]


def _plain_config(directory: Path) -> Any:
    """The model's config without its quantization."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    values = config.to_dict()
    for part in (values, values.get("text_config")):
        if isinstance(part, dict):
            part.pop("quantization_config", None)
    return type(config).from_dict(values)


def _skeleton(config: Any) -> torch.nn.Module:
    """The architecture without weights: it tells the class, and which layers there are."""
    import torch
    from transformers import AutoModelForCausalLM

    untyped: Any = AutoModelForCausalLM
    with torch.device("meta"):
        module: torch.nn.Module = untyped.from_config(config, trust_remote_code=False)
    return module


def _check_output_layer(
    name: str,
    skeleton: torch.nn.Module,
    config: Any,
    settings: PackedSettings,
    found: Inventory,
) -> None:
    """The output layer is packed where the config says so, and is then no other layer's as well:
    the input embedding to which it is tied would overwrite it."""
    output = output_embedding(skeleton)
    packed = [
        layer
        for layer in found.layers.values()
        if output is not None and _layer(skeleton, layer.name) is output
    ]
    if settings.output_layer is not None and settings.output_layer != bool(packed):
        stored = f"stored packed in {packed[0].file}" if packed else "not stored packed"
        raise LoadError(
            f"{name}: {settings.where}lm_head is {str(settings.output_layer).lower()}, but the "
            f"output layer is {stored}. Correct the config, or save the model again"
        )
    tied = getattr(config.get_text_config(decoder=True), "tie_word_embeddings", False)
    if packed and tied:
        raise LoadError(
            f"{name}: config.json: tie_word_embeddings is true, but {packed[0].file} holds a "
            f"packed {packed[0].name}, which cannot be the input embedding as well. Save the "
            "model again with tie_word_embeddings false"
        )


def _dense_state(
    skeleton: torch.nn.Module,
    settings: PackedSettings,
    found: Inventory,
    files: _Files,
    dtype: torch.dtype,
    device: str,
) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for layer in found.layers.values():
        weight = _unpacked(layer, settings, files, dtype, device)
        place = _layer(skeleton, layer.name)
        # GPT-2's linear layers hold their weights the other way round.
        turned = type(place).__name__ == "Conv1D"
        state[f"{layer.name}.weight"] = weight.T.contiguous() if turned else weight
    for key in found.others:
        tensor = files.read(key, "cpu")
        owner, _, part = key.rpartition(".")
        if part == "bias" and owner in found.layers and not tensor.any():
            # AutoGPTQ gives every layer a bias; one of zeros that the layer has no place for says
            # nothing. Any other stays, and is refused as unknown to the architecture.
            place = _layer(skeleton, owner)
            if place is not None and getattr(place, "bias", None) is None:
                continue
        state[key] = tensor
    return state


def _unpacked(
    layer: PackedLayer, settings: PackedSettings, files: _Files, dtype: torch.dtype, device: str
) -> torch.Tensor:
    qweight, qzeros, scales = (
        files.read(f"{layer.name}.{part}", device) for part in ("qweight", "qzeros", "scales")
    )
    if settings.method == "awq":
        return awq.dense_weight(qweight, qzeros, scales, group_size=layer.group_size, dtype=dtype)
    zeros = gptq.zero_points(
        qzeros, layer.bits, less_one=settings.less_one, borrows=settings.borrows
    )
    if zeros is None:
        raise LoadError(
            f"{files.path(f'{layer.name}.qzeros')}: {layer.name}.qzeros holds a zero point of 0, "
            "which checkpoint_format 'gptq' cannot hold: what was written in its place, tools read "
            "differently. Save the model again with checkpoint_format 'gptq_v2'"
        )
    groups = _groups(layer, files, device)
    return gptq.dense_weight(qweight, zeros, scales, groups, bits=layer.bits, dtype=dtype)


def _groups(layer: PackedLayer, files: _Files, device: str) -> torch.Tensor:
    """The group of each input: stored, or runs of ``group_size``."""
    import torch

    if not layer.has_group_index:
        return torch.arange(layer.inputs, device=device) // layer.group_size
    key = f"{layer.name}.g_idx"
    groups = files.read(key, device)
    lowest, highest = int(groups.min()), int(groups.max())
    if lowest < 0 or highest >= layer.groups:
        raise LoadError(
            f"{files.path(key)}: {key} names the groups {lowest} to {highest}, but there are "
            f"scales for the groups 0 to {layer.groups - 1}. {_FETCH}"
        )
    return groups


def _layer(skeleton: torch.nn.Module, name: str) -> torch.nn.Module | None:
    """The layer that a name in the files means: with or without the prefix of the base model."""
    prefix = str(getattr(skeleton, "base_model_prefix", ""))
    for candidate in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
        with contextlib.suppress(AttributeError):
            return skeleton.get_submodule(candidate)
    return None


class _Files:
    """Reads tensors by name from the files that hold them. Raises LoadError naming the file."""

    def __init__(self, name: str, directory: Path, files: Mapping[str, str]) -> None:
        self._name = name
        self._directory = directory
        self._files = files
        self._open: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def path(self, key: str) -> str:
        """The file of a tensor, as messages name it."""
        return f"{self._name}: {self._files[key]}"

    def read(self, key: str, device: str) -> torch.Tensor:
        """A tensor of its own, no view into the file: the file may go away."""
        from safetensors import SafetensorError, safe_open

        file = self._files[key]
        try:
            if file not in self._open:
                handle: Any = safe_open(self._directory / file, framework="pt", device="cpu")
                self._open[file] = self._stack.enter_context(handle)
            tensor: torch.Tensor = self._open[file].get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise LoadError(
                f"{self.path(key)} cannot be read, it is truncated or corrupted ({error}). {_FETCH}"
            ) from error
        return tensor.clone() if device == "cpu" else tensor.to(device)
