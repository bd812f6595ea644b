"""GPTQ (Frantar et al. 2023, arXiv 2210.17323) by GPTQModel, the tool that succeeds AutoGPTQ.

GPTQModel works in a process of its own (:mod:`pytest_compsec.compression.gptq_worker`): importing
it changes torch, transformers and safetensors for the rest of a process, and a model that is loaded
later must not answer otherwise because another one was quantized before. What it saved is read
back as any GPTQ checkpoint is, so the variant holds the very weights that the deployed checkpoint
would have, dense, in the float type of the model.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.compression.gptq_grid import GptqGrid
from pytest_compsec.compression.kept import Kept
from pytest_compsec.compression.weight_only import check_layers, linear_layers
from pytest_compsec.errors import LoadError, MissingExtraError, NotCompressedError
from pytest_compsec.models.quiet import quiet

if TYPE_CHECKING:
    import torch

    from pytest_compsec.compression.calibration import CalibrationTexts
    from pytest_compsec.compression.gptq_worker import Task

_WORKER = "pytest_compsec.compression.gptq_worker"
_PURPOSE = "quantize: {method: gptq}"
# Codes are packed into words of 32 bits, along the inputs and (the zero points) the outputs.
_WORD = 32
# With fewer processors GPTQModel 7.7 starts one worker thread, asks for two, and fails.
_PROCESSORS_NEEDED = 3


def expected(options: Mapping[str, Any]) -> Expectation:
    """No linear weight matrix holds more than 2^bits values in any group."""
    return Expectation(max_levels=2 ** int(options["bits"]), group_size=options["group_size"])


def apply(
    module: torch.nn.Module,
    options: Mapping[str, Any],
    device: str,
    *,
    calibration: CalibrationTexts,
) -> torch.nn.Module:
    """Quantize the linear layers of ``module`` in place and put it on ``device``.

    GPTQModel chooses the layers (all linear layers of the decoder); one that it leaves alone is
    found by the measurement that follows. The dense model is written to the system's temporary
    directory for the time that takes.

    Raises MissingExtraError; LoadError when GPTQModel cannot run here or fails, with its reason;
    NotCompressedError naming a layer whose shape does not fit.
    """
    layers = linear_layers(module)
    with tempfile.TemporaryDirectory(prefix="compsec-gptq-") as temporary:
        directory = Path(temporary) / "checkpoint"
        write_checkpoint(module, options, device, directory, calibration=calibration)
        _take_over(layers, directory, options)
    return module.to(device)


def write_checkpoint(
    module: torch.nn.Module,
    options: Mapping[str, Any],
    device: str,
    directory: Path,
    *,
    calibration: CalibrationTexts,
) -> None:
    """Write ``module``, quantized on ``device``, and the tokenizer to the new ``directory``: a
    checkpoint in the format ``gptq_v2``, as it would be deployed. Same errors as :func:`apply`."""
    check_usable()
    layers = linear_layers(module)
    check_layers(layers, method="gptq", group_size=options["group_size"])
    _check_packable(layers)
    rows = [row for row in calibration.token_rows() if row] if calibration.prompts else []
    if not rows:
        raise LoadError(f"{_PURPOSE}: the set named by 'calibration' holds no text")
    with tempfile.TemporaryDirectory(prefix="compsec-gptq-") as temporary:
        work = Path(temporary)
        _write_dense(module, calibration.tokenizer, work / "dense")
        _run(
            work,
            {
                "bits": options["bits"],
                "group_size": options["group_size"] or -1,
                "symmetric": options["symmetric"],
                "desc_act": options["desc_act"],
                "device": device,
                "dtype": str(next(module.parameters()).dtype).removeprefix("torch."),
                "left_dense": [
                    name for name, layer in module.named_modules() if isinstance(layer, Kept)
                ],
                "rows": rows,
            },
        )
        # It says how long each layer took, so that no two checkpoints would be the same.
        (work / "quantized" / "quant_log.csv").unlink(missing_ok=True)
        shutil.move(work / "quantized", directory)


def check_usable() -> None:
    """Raise MissingExtraError without GPTQModel, LoadError beside a torch that it cannot use."""
    from packaging.requirements import Requirement

    if importlib.util.find_spec("gptqmodel") is None:
        raise MissingExtraError(
            "gptqmodel", "gptq", _PURPOSE, with_constraints="constraints-gptq.txt"
        )
    version = importlib.metadata.version("gptqmodel")
    installed = importlib.metadata.version("torch")
    for text in importlib.metadata.requires("gptqmodel") or ():
        needed = Requirement(text)
        if needed.name == "torch" and not needed.specifier.contains(installed, prereleases=True):
            raise LoadError(
                f"{_PURPOSE}: gptqmodel {version} needs torch{needed.specifier}, and torch "
                f"{installed} is installed. Install versions that go together (the project's "
                'constraints-gptq.txt lists some that do): pip install "pytest-compsec[gptq]"'
            )


def worker_environment(environment: Mapping[str, str], processors: int | None) -> dict[str, str]:
    """What the worker process sees of ``environment``: the modules that this process sees, no hub,
    and where the machine has too few ``processors``, a number of threads with which it starts."""
    changed = {
        **environment,
        "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
        "HF_HUB_OFFLINE": "1",
    }
    if (processors or 1) < _PROCESSORS_NEEDED:
        changed.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    return changed


def _check_packable(layers: list[tuple[str, torch.nn.Linear]]) -> None:
    for name, layer in layers:
        if layer.in_features % _WORD or layer.out_features % _WORD:
            raise NotCompressedError(
                f"gptq cannot pack {name}: it has {layer.in_features} inputs and "
                f"{layer.out_features} outputs, and both must be multiples of {_WORD}. Keep it "
                "with 'keep_in_full_precision'"
            )


def _write_dense(module: Any, tokenizer: Any, directory: Path) -> None:
    """The model as a checkpoint, with the layers that are kept from the method's sight."""
    if not hasattr(module, "save_pretrained"):
        raise LoadError(
            f"{_PURPOSE} works on language models of transformers only, not on a "
            f"{type(module).__name__}. 'method: round-to-nearest' works on any module"
        )
    state = module.state_dict()
    for name, layer in module.named_modules():
        if isinstance(layer, Kept):
            state[f"{name}.weight"] = layer.weight
            if layer.bias is not None:
                state[f"{name}.bias"] = layer.bias
    with quiet():
        module.save_pretrained(directory, state_dict=state)
        tokenizer.save_pretrained(directory)


def _run(directory: Path, task: Task) -> None:
    (directory / "task.json").write_text(json.dumps(task), encoding="utf-8")
    with (directory / "output.txt").open("w", encoding="utf-8") as output:
        code = subprocess.run(
            [sys.executable, "-m", _WORKER, str(directory)],
            cwd=directory,
            env=worker_environment(os.environ, os.cpu_count()),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code:
        reason = directory / "error.txt"
        said = (reason if reason.exists() else directory / "output.txt").read_text(
            encoding="utf-8", errors="replace"
        )
        raise LoadError(
            f"gptqmodel {importlib.metadata.version('gptqmodel')} could not quantize the model "
            f"(exit status {code}): {_last_line(said)}"
        )


def _last_line(text: str, limit: int = 300) -> str:
    lines = [" ".join(line.split()) for line in re.split(r"[\r\n]+", text) if line.strip()]
    return lines[-1][:limit] if lines else "it said nothing"


def _take_over(
    layers: list[tuple[str, torch.nn.Linear]], directory: Path, options: Mapping[str, Any]
) -> None:
    """Give each layer the values of its packed namesake, and note the grid that they are on."""
    from safetensors import safe_open

    from pytest_compsec.models.packed.gptq import dense_weight, zero_points
    from pytest_compsec.models.packed.layers import inventory
    from pytest_compsec.models.packed.settings import packed_settings

    settings = packed_settings(directory)
    if settings is None:
        raise LoadError("gptqmodel ended without an error, and saved a model that is no GPTQ one")
    found = inventory(directory, settings)
    for name, layer in layers:
        packed = found.layers.get(name)
        if packed is None:
            continue  # Left dense, on no grid: the check of the promise names it.
        with safe_open(directory / packed.file, framework="pt") as file:
            parts = {
                part: file.get_tensor(f"{name}.{part}")
                for part in ("qweight", "qzeros", "scales", "g_idx")
            }
        zeros = zero_points(parts["qzeros"], packed.bits, less_one=settings.less_one)
        # The worker saves version 2, which has a place for every zero point.
        assert zeros is not None
        weight: Any = layer.weight
        grid = GptqGrid(
            scales=parts["scales"].to(weight.dtype),
            zeros=zeros,
            groups=parts["g_idx"].long(),
            bits=packed.bits,
            group_size=options["group_size"],
        )
        dense = dense_weight(
            parts["qweight"], zeros, parts["scales"], parts["g_idx"],
            bits=packed.bits, dtype=weight.dtype,
        )  # fmt: skip
        weight.data.copy_(dense)
        weight.simulated_grid = grid
