"""Write a loaded variant as the files of a checkpoint, and prove that they are the same model.

What transformers can load again is written as transformers itself would: dense, pruned and smaller
models as they are, bitsandbytes layers with the ``quantization_config`` that their loader needs.
The files are opened again, as a source variant would be, before they get their name.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.atomic_directory import new_directory
from pytest_compsec.compression.gradients import is_repacked
from pytest_compsec.errors import CompsecError, LoadError
from pytest_compsec.generation.chat import encode, render
from pytest_compsec.generation.decoding import end_tokens
from pytest_compsec.models.adapter_files import CONFIG, WEIGHTS
from pytest_compsec.models.arm import Arm, StagedFiles
from pytest_compsec.models.compressed_adapter import attach_adapter, detach_adapter
from pytest_compsec.models.quiet import quiet

if TYPE_CHECKING:
    import torch

    from pytest_compsec.models.loaded import LoadedModel

#: What both models read when they are compared.
PROBES = ("How do I bake bread?", "Name three rivers, and say where each of them ends.")


@dataclasses.dataclass(frozen=True)
class Exported:
    """Where the files are: ``model`` (a directory), and ``adapter`` beside it where the variant has
    one on top. ``simulated``: the files hold a grid's values as plain floats."""

    model: Path
    adapter: Path | None
    simulated: bool


#: Methods whose modules the libraries here cannot save and open again.
_NOT_WRITTEN = {
    "hqq": "transformers does not open hqq checkpoints",
    "torchao": "safetensors does not take torchao's tensors",
}


def export_files(
    load: Callable[[Arm], LoadedModel], arm: Arm, directory: Path
) -> Exported:  # fmt: skip
    """Write the variant ``arm`` into ``directory``, whole or not at all.

    A variant with an adapter on top is written as ``directory/model`` and ``directory/adapter``,
    any other as ``directory`` itself. ``load`` opens an arm.

    Raises LoadError when the files, opened again, are not the same model bit for bit (then nothing
    is left behind), CompsecError when ``directory`` is not empty.
    """
    if arm.recipe is not None and arm.recipe.method in _NOT_WRITTEN:
        raise CompsecError(
            f"{arm.name}: variants of the method {arm.recipe.method} cannot be written as files: "
            f"{_NOT_WRITTEN[arm.recipe.method]}. They stay derived, pinned by their recipe"
        )
    with new_directory(directory) as temporary:
        loaded = load(arm)
        simulated = any(matrix.levels is not None for matrix in loaded.weights.matrices)
        beside = arm.compressed_adapter
        target = temporary if beside is None else temporary / "model"
        if beside is not None:
            detach_adapter(loaded.module)
        _write(loaded, target)
        if beside is not None:
            (temporary / "adapter").mkdir()
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(beside.directory / name, temporary / "adapter" / name)
            attach_adapter(loaded.module, beside, arm.name)
        expected = _probe(loaded)
        written = _as_source(arm, loaded, target)
        del loaded  # Two copies of a large model may not fit.
        again = load(written)
        if beside is not None:
            copied = dataclasses.replace(beside, directory=temporary / "adapter")
            attach_adapter(again.module, copied, arm.name)
        _require_same(arm, expected, _probe(again))
    if beside is None:
        return Exported(directory, None, simulated)
    return Exported(directory / "model", directory / "adapter", simulated)


def _write(loaded: LoadedModel, directory: Path) -> None:
    module: Any = loaded.module
    if any(is_repacked(layer) for layer in module.modules()):
        raise CompsecError(
            f"{loaded.arm.name}: has answered already, after which bitsandbytes cannot save it "
            "exactly. Load it anew"
        )
    with quiet():
        quantization = _quantization_config(module)
        module.save_pretrained(directory)
        loaded.tokenizer.save_pretrained(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if quantization is not None:
        config["quantization_config"] = quantization
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _quantization_config(module: torch.nn.Module) -> dict[str, Any] | None:
    """What transformers needs to know to load bitsandbytes layers; None without any."""
    import torch
    from transformers import BitsAndBytesConfig

    layers: dict[str, list[tuple[str, Any]]] = {}
    dense = []
    for name, layer in module.named_modules():
        kind = type(layer).__name__
        if kind in ("Linear4bit", "Linear8bitLt"):
            layers.setdefault(kind, []).append((name, layer))
        elif isinstance(layer, torch.nn.Linear):
            dense.append(name)
    if not layers:
        return None
    if len(layers) > 1:
        raise LoadError("holds both 4-bit and 8-bit layers, which no checkpoint can say")
    make: Any = BitsAndBytesConfig  # Its constructor has no types.
    ((kind, found),) = layers.items()
    first = found[0][1]
    if kind == "Linear8bitLt":
        config = make(
            load_in_8bit=True,
            llm_int8_threshold=float(first.state.threshold),
            llm_int8_skip_modules=dense,
        )
    else:
        config = make(
            load_in_4bit=True,
            bnb_4bit_quant_type=first.weight.quant_type,
            bnb_4bit_use_double_quant=bool(first.weight.quant_state.nested),
            bnb_4bit_compute_dtype=first.compute_dtype,
            llm_int8_skip_modules=dense,
        )
    values: dict[str, Any] = config.to_dict()
    return values


def _as_source(arm: Arm, loaded: LoadedModel, directory: Path) -> Arm:
    """The written files as an arm, placed and typed as the variant is."""
    files = StagedFiles(directory, "", None, {"source": directory.name}, lambda: None)
    return Arm(
        model=arm.model,
        variant=arm.variant,
        files=files,
        dtype=loaded.dtype,
        device=loaded.device,
        system=arm.system,
        chat_template_kwargs=arm.chat_template_kwargs,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Reading:
    tokens: list[list[int]]
    ends: frozenset[int]
    logits: list[torch.Tensor]


def _probe(loaded: LoadedModel) -> _Reading:
    import torch

    arm = loaded.arm
    rendered = [
        render(loaded.tokenizer, prompt, arm.system, arm.chat_template_kwargs) for prompt in PROBES
    ]
    tokens = encode(loaded.tokenizer, rendered)
    with torch.inference_mode(), quiet():
        logits = [
            loaded.module(torch.tensor([row], device=loaded.device)).logits.cpu() for row in tokens
        ]
    return _Reading(tokens, end_tokens(loaded.module, loaded.tokenizer), logits)


def _require_same(arm: Arm, expected: _Reading, found: _Reading) -> None:
    import torch

    problem = None
    if found.tokens != expected.tokens:
        problem = "its tokenizer or chat template reads prompts otherwise"
    elif found.ends != expected.ends:
        problem = "it ends its answers at other tokens"
    elif not all(
        torch.equal(a, b) for a, b in zip(expected.logits, found.logits, strict=True)
    ):  # fmt: skip
        problem = "its logits are others"
    if problem is not None:
        raise LoadError(
            f"{arm.name}: cannot be exported: opened again, the written model is not the same "
            f"({problem}). Nothing was written"
        )
