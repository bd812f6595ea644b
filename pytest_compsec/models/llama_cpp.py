"""A GGUF file that answers in its own runtime: llama.cpp, through ``llama-cpp-python``.

transformers unpacks a GGUF file and computes with dense float weights. What is deployed computes
otherwise: blocks of integers, activations rounded to 8 bits for each product, its own tokenizer
and its own list of end tokens. Here the deployed artefact itself is opened; how far the two agree
says :mod:`pytest_compsec.models.runtime_agreement`.

The chat template and the texts of tokens come from transformers' tokenizer for the same file, so
the architecture must be one that transformers reads from GGUF.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import CompsecError, LoadError
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.llama_cpp_model import LlamaCppModel

if TYPE_CHECKING:
    from pytest_compsec.models.llama_cpp_engine import Engine

__all__ = ["DTYPE", "RUNTIME", "LlamaCppModel", "load_llama_cpp", "runtime_device", "runtime_facts"]

RUNTIME = "llama-cpp"
#: Activations travel between layers as float32; how a product rounds them is the file's matter.
DTYPE = "float32"


def load_llama_cpp(arm: Arm) -> LlamaCppModel:
    """Open one GGUF arm in llama.cpp, on the device that :func:`runtime_device` finds.

    Raises IntegrityError when the bytes behind the arm changed before or while they were read,
    LoadError when the arm is no plain GGUF file or llama.cpp cannot open it, MissingExtraError
    without ``llama-cpp-python`` or ``gguf``.
    """
    from pytest_compsec.models.checkpoints import open_tokenizer
    from pytest_compsec.models.gguf_weights import measure_gguf
    from pytest_compsec.models.llama_cpp_engine import Engine
    from pytest_compsec.models.loading import explain
    from pytest_compsec.models.quiet import quiet

    arm.recheck()
    entry = _entry(arm)
    device = runtime_device(arm)
    try:
        with quiet():
            import torch

            weights = measure_gguf(arm.files)
            tokenizer = open_tokenizer(arm)
            engine = Engine(
                arm.files.directory / entry, device=device, threads=torch.get_num_threads()
            )
    except CompsecError:
        raise
    except Exception as error:  # whatever the libraries raise on a file that is no model
        raise LoadError(explain(arm, error)) from error
    _check_vocabulary(arm, engine, tokenizer)
    # Read by path above: only now is it known that what was read is what was verified.
    arm.recheck()
    return LlamaCppModel(
        arm=arm, engine=engine, tokenizer=tokenizer, device=device, dtype=DTYPE, weights=weights
    )


def runtime_device(arm: Arm) -> str:
    """Where llama.cpp computes: the GPU that the arm may use if this build of llama.cpp can, else
    ``cpu``. Raises LoadError when the arm asks for a GPU and the build has none."""
    from pytest_compsec.models.devices import pick_device
    from pytest_compsec.models.llama_cpp_engine import PACKAGE, import_library, supports_gpu

    library = import_library(f"runtime: {RUNTIME} of {arm.name}")
    device = pick_device(arm.device)
    if device == "cpu" or supports_gpu(library):
        return device
    if arm.device is None:
        return "cpu"
    raise LoadError(
        f"{arm.name}: device {arm.device!r} was asked for, but the installed {PACKAGE} was built "
        "for the processor alone. Build it for the GPU (its README names the CMAKE_ARGS), or set "
        "`device: cpu`"
    )


def runtime_facts(arm: Arm) -> Mapping[str, str]:
    """What decides answers beside the arm's weights and the packages' versions: the runtime, and
    what it was built for. For the identity under which answers are cached."""
    from pytest_compsec.models.llama_cpp_engine import import_library, processor_features

    library = import_library(f"runtime: {RUNTIME} of {arm.name}")
    return {"runtime": RUNTIME, "processor": processor_features(library)}


def _entry(arm: Arm) -> str:
    """The GGUF file's name; LoadError for anything that is not one GGUF file and nothing else."""
    if arm.files.entry is None or not arm.files.entry.lower().endswith(".gguf"):
        raise LoadError(
            f"{arm.name}: `runtime: {RUNTIME}` needs a source that is a .gguf file, and this is "
            f"{arm.files.entry or 'a model directory'}. Name the GGUF file as 'source' or remove "
            "'runtime'"
        )
    for name, there in (
        ("an adapter", arm.adapter or arm.compressed_adapter),
        ("a recipe", arm.recipe),
    ):
        if there is not None:
            raise LoadError(
                f"{arm.name}: `runtime: {RUNTIME}` runs the GGUF file as it is, and {name} would "
                "be left out. Write the finished model as a GGUF file and name that as 'source', "
                "or remove 'runtime'"
            )
    return arm.files.entry


def _check_vocabulary(arm: Arm, engine: Engine, tokenizer: Any) -> None:
    """The text of an answer comes from the tokenizer, its tokens from llama.cpp: one vocabulary."""
    if len(tokenizer) > engine.vocabulary:
        raise LoadError(
            f"{arm.name}: the tokenizer made from {arm.files.entry} has {len(tokenizer)} tokens, "
            f"llama.cpp reads {engine.vocabulary} from it, so answers would be read wrongly. "
            "Convert the model to GGUF again"
        )
