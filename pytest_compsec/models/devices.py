"""Which device an arm runs on, and in which float type.

Nothing here loads weights: the checkpoint's own float type is read from ``config.json`` or the
headers of its safetensors files. torch is imported only when a device has to be asked.
"""

from __future__ import annotations

import importlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_compsec.compression.methods import find
from pytest_compsec.errors import LoadError
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.headers import element_counts, read_headers
from pytest_compsec.models.served.pin import SERVED

FLOAT_TYPES = ("float64", "float32", "bfloat16", "float16")
_HEADER_NAMES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def pick_device(requested: str | None) -> str:
    """A torch device string that is there: ``requested``, or the first CUDA device, or ``cpu``.

    ``cuda`` becomes ``cuda:0``. Raises LoadError when the device does not exist.
    """
    import torch

    if requested is None:
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise LoadError(
            f"device {requested!r} is not a device: use 'cpu', 'cuda' or 'cuda:<number>'"
        ) from error
    if device.type == "cpu":
        return "cpu"
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = device.index or 0
        if index >= count:
            there = f"{count} CUDA device(s)" if count else "no CUDA device"
            raise LoadError(
                f"device {requested!r} was asked for, but torch {torch.__version__} sees {there} "
                "here. Leave 'device' out to take what there is, or check the driver and "
                "CUDA_VISIBLE_DEVICES"
            )
        return f"cuda:{index}"
    raise LoadError(f"device {requested!r} is not supported: use 'cpu', 'cuda' or 'cuda:<number>'")


def placement(arm: Arm) -> tuple[str, str]:
    """The device that ``arm`` runs on and the float type (name) that it computes in, also where
    another program runs it. Of a served model both are :data:`SERVED`: nobody here knows.

    Raises LoadError as :func:`pick_device` and :func:`resolve_dtype` do, MissingExtraError when the
    other program is not installed.
    """
    if arm.served is not None:
        return SERVED, SERVED
    if arm.runtime is not None:
        from pytest_compsec.models.llama_cpp import DTYPE, runtime_device

        return runtime_device(arm), DTYPE
    device = pick_device(arm.device)
    return device, resolve_dtype(arm, device)


def device_kind(device: str) -> str:
    """What of a device decides the last bits of an answer: ``cpu``, or ``cuda`` and the GPU's
    name. The index does not: the second of two equal GPUs gives the answers of the first."""
    if not device.startswith("cuda"):
        return device.partition(":")[0]
    import torch

    return f"cuda {torch.cuda.get_device_name(torch.device(device))}"


def fastest_dtype(device: str) -> str:
    """The fastest native float type of ``device``, the same on every call on one machine.

    CUDA: bfloat16 where the GPU computes it natively (compute capability 8 and up), else float16.
    CPU: bfloat16 when the processor multiplies it natively (AMX-BF16 or AVX512-BF16, where it was
    measured 3 to 6 times as fast as float32 in matrix products), else float32: emulated bfloat16
    is slower than float32. Decided by the processor's flags, never by a stopwatch, so that a busy
    machine chooses as an idle one does.
    """
    if device.startswith("cuda"):
        import torch

        major, _ = torch.cuda.get_device_capability(torch.device(device))
        return "bfloat16" if major >= 8 else "float16"
    return "bfloat16" if _processor_has_native_bfloat16() else "float32"


def resolve_dtype(arm: Arm, device: str) -> str:
    """The name of the torch float type in which ``arm`` runs on ``device``.

    A recipe that sets the float type (``cast``) wins. Else what the arm asks for: a type's name,
    ``fastest``, or None for the checkpoint's own: ``dtype`` (``torch_dtype``) of its config.json,
    else the type that most of its stored float elements have. A GGUF file has no float type of its
    own and runs in float32. Raises LoadError for a name that is no float type.
    """
    if arm.recipe is not None:
        method = find(arm.recipe.section, arm.recipe.method)
        run_dtype = getattr(importlib.import_module(method.implementation), "run_dtype", None)
        if run_dtype is not None:
            return str(run_dtype(arm.recipe.options))
    if arm.dtype is None:
        return checkpoint_dtype(arm)
    if arm.dtype == "fastest":
        return fastest_dtype(device)
    if arm.dtype not in FLOAT_TYPES:
        raise LoadError(
            f"{arm.name}: dtype {arm.dtype!r} is not one of {', '.join(FLOAT_TYPES)}, fastest"
        )
    return arm.dtype


def checkpoint_dtype(arm: Arm) -> str:
    """The float type in which the arm's files hold (GGUF: give) its weights."""
    if arm.files.entry is not None:
        return "float32"
    if arm.code is not None:
        return _stored_dtype(arm.files.directory)
    declared = _declared_dtype(read_config(arm.files.directory))
    return declared or _stored_dtype(arm.files.directory)


def read_config(directory: Path, name: str = "config.json") -> Mapping[str, Any]:
    """``config.json`` (or ``name``) of a model directory, a JSON object; LoadError if it is not."""
    path = directory / name
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise LoadError(
            f"{directory.name}: there is no {name}, so this is not a model directory that "
            "transformers can read"
        ) from None
    except ValueError as error:
        raise LoadError(f"{directory.name}/{name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise LoadError(f"{directory.name}/{name} is not a JSON object")
    return config


def _declared_dtype(config: Mapping[str, Any]) -> str | None:
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            name = str(part.get(key, "")).removeprefix("torch.")
            if name in FLOAT_TYPES:
                return name
    return None


def _stored_dtype(directory: Path) -> str:
    counts = element_counts(read_headers(directory))
    floats = {_HEADER_NAMES[name]: n for name, n in counts.items() if name in _HEADER_NAMES}
    return max(floats, key=lambda name: floats[name]) if floats else "float32"


def _processor_has_native_bfloat16() -> bool:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        # On other processors the speed of bfloat16 depends on how torch was built, which no flag
        # tells; float32 is never a wrong answer.
        return False
    import torch

    mkldnn: Any = torch.backends.mkldnn  # Its functions have no types.
    if not mkldnn.is_available():
        return False
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        found = capabilities()
        return bool(found.get("amx_bf16") or found.get("avx512_bf16"))
    return any(
        bool(probe())
        for probe in (
            getattr(torch.cpu, "_is_amx_tile_supported", None),
            getattr(torch.cpu, "_is_avx512_bf16_supported", None),
        )
        if probe is not None
    )
