"""Arm -> LoadedModel: open the verified files, merge, compress, and check what came out.

Order: checkpoint in its own float type -> adapter merged (float32 arithmetic) -> run's float type
-> recipe, but for the layers that it keeps -> measured against the recipe's promise -> the
variant's own adapter, on top and not merged: merging would compress anew (so for variants with
files of their own too). Where neither adapter
nor cast needs the checkpoint's own type, the weights are read in the run's type at once.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import importlib.metadata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression import expectation
from pytest_compsec.compression.methods import find
from pytest_compsec.errors import CompsecError, LoadError, NotCompressedError
from pytest_compsec.models.adapters import merge_adapter
from pytest_compsec.models.arm import TEXT_GENERATION, Arm, Recipe, StagedFiles
from pytest_compsec.models.casting import cast_floats
from pytest_compsec.models.checkpoints import is_quantized_checkpoint, open_module, open_tokenizer
from pytest_compsec.models.devices import checkpoint_dtype, pick_device, resolve_dtype
from pytest_compsec.models.loaded import LoadedModel, TransformersModel
from pytest_compsec.models.quiet import quiet
from pytest_compsec.models.spreading import (
    Room,
    estimated_size,
    require_room,
    room_for,
    spread,
)
from pytest_compsec.models.stored import stored_bits
from pytest_compsec.models.weights import (
    WeightReport,
    measure_weights,
    output_embedding,
    with_stored_buffers,
)

if TYPE_CHECKING:
    import torch


def load(arm: Arm, *, base: LoadedModel | None = None) -> LoadedModel:
    """Load one arm on its device, ready to answer: in llama.cpp where it asks for that runtime,
    else a :class:`TransformersModel`.

    ``base`` is a model in memory of which :func:`can_derive` says that ``arm`` derives from it: its
    weights are copied instead of read and unpacked again, with the same result bit for bit.

    Raises IntegrityError when the bytes behind the arm changed before or while they were read,
    LoadError (with the arm's name and what to do) when they make no working model,
    NotCompressedError when a variant does not show its compression, MissingExtraError when an
    optional package is needed.
    """
    arm.recheck()
    if arm.runtime is not None:
        return _in_llama_cpp(arm)
    if arm.task != TEXT_GENERATION:
        return _classifier(arm, base)
    with _explained(arm), quiet():
        device = pick_device(arm.device)
        dtype = resolve_dtype(arm, device)
        if base is not None and can_derive(arm, base):
            tokenizer, module = base.tokenizer, copy.deepcopy(base.module)
        else:
            tokenizer = open_tokenizer(arm)
            module = _opened(arm, dtype=dtype, device=device)
        module, kept = _compressed(arm, module, tokenizer, device)
        module.eval().requires_grad_(False)
        _keep_output_layer_fast(module)
        # The file's bits are the model's only when nothing was merged or derived after unpacking.
        as_stored = arm.recipe is None and not _merges(arm)
        weights = measure_weights(module, stored_bits=stored_bits(arm.files) if as_stored else None)
        if arm.recipe is not None:
            _check_recipe(arm, arm.recipe, weights, kept, module)
        on_top = arm.compressed_adapter if _merges(arm) or arm.recipe is not None else arm.adapter
        if on_top is not None:
            module = _with_adapter(arm, module, on_top)
    # Read by path above: only now is it known that what was read is what was verified.
    arm.recheck()
    return TransformersModel(
        arm=arm, module=module, tokenizer=tokenizer, device=device, dtype=dtype, weights=weights
    )


def _classifier(arm: Arm, base: LoadedModel | None) -> LoadedModel:
    """As :func:`load`, for images and texts with classes."""
    from pytest_compsec.classification.model import ClassifierModel
    from pytest_compsec.classification.opening import classes_of, preparation_of

    with _explained(arm), quiet():
        device = pick_device(arm.device)
        dtype = resolve_dtype(arm, device)
        if base is not None and can_derive(arm, base):
            module = copy.deepcopy(base.module)
        else:
            module = _opened_classifier(arm, dtype=dtype, device=device)
        classes, preparation = classes_of(arm, module), preparation_of(arm, module)
        module, kept = _compressed(arm, module, None, device)
        module.eval().requires_grad_(False)
        as_stored = arm.recipe is None and arm.code is None
        weights = measure_weights(module, stored_bits=stored_bits(arm.files) if as_stored else None)
        if arm.recipe is not None:
            _check_recipe(arm, arm.recipe, weights, kept, module)
        elif arm.code is not None:
            weights = with_stored_buffers(weights, module)
    arm.recheck()
    return ClassifierModel(arm, module, device, dtype, weights, classes, preparation)


def _opened_classifier(arm: Arm, *, dtype: str, device: str) -> torch.nn.Module:
    """The classifier of the files alone; where a recipe follows, still in CPU memory."""
    import torch

    first_device = device if arm.recipe is None else "cpu"
    if arm.recipe is not None and _sets_dtype(arm.recipe):
        dtype = checkpoint_dtype(arm)
    if arm.code is None:
        from pytest_compsec.classification.opening import open_huggingface_classifier

        if arm.recipe is not None and is_quantized_checkpoint(arm):
            raise LoadError(
                f"{arm.name}: the source is already quantized, so nothing can be derived from it. "
                "Name the full-precision model as 'source'"
            )
        return open_huggingface_classifier(arm, dtype=dtype, device=first_device)
    from pytest_compsec.models.model_inputs import only_file, python_module
    from pytest_compsec.models.python_source.weights import load_weights

    module = python_module(arm.code)
    load_weights(module, only_file(arm.files), arm.name)
    return cast_floats(module, getattr(torch, dtype)).to(first_device)


def can_derive(arm: Arm, base: LoadedModel) -> bool:
    """Whether ``base`` in memory is the dense model, in the right float type and on the right
    device, from which the recipe of ``arm`` starts."""
    if arm.recipe is None or base.arm.recipe is not None:
        return False
    if arm.runtime is not None or base.arm.runtime is not None:
        return False  # What llama.cpp has in memory is no module to copy.
    if base.arm.adapter is not None and base.arm.variant is not None:
        return False  # Its adapter is on top; a recipe starts from a merged one.
    adapter, base_adapter = arm.adapter, base.arm.adapter
    if (arm.files.tree, adapter and adapter.tree) != (
        base.arm.files.tree,
        base_adapter and base_adapter.tree,
    ):
        return False
    if (arm.task, arm.code and arm.code.digest) != (
        base.arm.task,
        base.arm.code and base.arm.code.digest,
    ):
        return False
    if is_quantized_checkpoint(arm) or pick_device(arm.device) != base.device:
        return False
    starts_in = (
        checkpoint_dtype(arm) if _sets_dtype(arm.recipe) else resolve_dtype(arm, base.device)
    )
    return starts_in == base.dtype


def _merges(arm: Arm) -> bool:
    """Whether the adapter beside the files is merged into them: an original's is. The one of a
    variant with files of its own goes on top, for they are compressed already."""
    return arm.adapter is not None and (arm.variant is None or arm.recipe is not None)


def _opened(arm: Arm, *, dtype: str, device: str) -> torch.nn.Module:
    """The source with its adapter merged; where a recipe follows, still in CPU memory."""
    import torch

    quantized = is_quantized_checkpoint(arm)
    if quantized and (_merges(arm) or arm.recipe is not None):
        raise LoadError(
            f"{arm.name}: the source is already quantized, so nothing can be merged into it or "
            "derived from it. Name the full-precision model as 'source'"
        )
    room = room_for(arm, device) if not quantized else None
    if room is not None and not room.holds(estimated_size(arm, dtype)):
        return _spread(arm, dtype, room)
    # A recipe places the layers itself, one at a time, so the device never holds the dense model.
    first_device = device if arm.recipe is None and not _merges(arm) else "cpu"
    if not _merges(arm) and not (arm.recipe is not None and _sets_dtype(arm.recipe)):
        return open_module(arm, dtype=dtype, device=first_device)
    module = open_module(arm, dtype=checkpoint_dtype(arm), device=first_device)
    if arm.adapter is not None and _merges(arm):
        module = merge_adapter(module, arm.adapter, arm.name)
    if arm.recipe is None:
        return cast_floats(module, getattr(torch, dtype)).to(device)
    return module if _sets_dtype(arm.recipe) else cast_floats(module, getattr(torch, dtype))


def _spread(arm: Arm, dtype: str, room: Room) -> torch.nn.Module:
    """As :func:`_opened` for an arm that one GPU may not hold: read in main memory first."""
    import torch

    if arm.files.entry is None:  # Of a GGUF file the estimate is an upper bound.
        require_room(arm, estimated_size(arm, dtype), room)
    module = open_module(arm, dtype=checkpoint_dtype(arm) if _merges(arm) else dtype, device="cpu")
    if arm.adapter is not None and _merges(arm):
        module = cast_floats(merge_adapter(module, arm.adapter, arm.name), getattr(torch, dtype))
    return spread(arm, module, room)


def _keep_output_layer_fast(module: torch.nn.Module) -> None:
    """Let the output layer read its input in one piece.

    The logits of the last position alone come from a strided slice, and torch multiplies such a
    slice by a weight without gradients as a batch, copying the weight once for every prompt: in
    bfloat16 that made the first step of a batch of 32 three times as long (3.5 s against 1.0 s,
    SmolLM2-135M on one core).
    """
    layer = output_embedding(module)
    if layer is not None and _contiguous_input not in layer._forward_pre_hooks.values():
        layer.register_forward_pre_hook(_contiguous_input)


def _contiguous_input(layer: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].contiguous(), *inputs[1:]) if inputs else inputs


def _compressed(
    arm: Arm, module: torch.nn.Module, tokenizer: Any, device: str
) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """The module as the recipe makes it, and the names of the layers that it keeps."""
    recipe = arm.recipe
    if recipe is None:
        return module, ()
    if recipe.keeps is None:
        raise NotCompressedError(
            f"{arm.name}: which layers 'keep_in_full_precision: auto' keeps has not been found: "
            "run `compsec pin`"
        )
    try:
        if not recipe.keeps:
            return _applied(arm, recipe, module, tokenizer, device), ()
        from pytest_compsec.compression.kept import hide, kept_layers, put_back

        names = kept_layers(module, recipe.keeps)
        layers = hide(module, names)
        compressed = _applied(arm, recipe, module, tokenizer, device)
        return put_back(compressed, layers, device), names
    except NotCompressedError as error:
        raise NotCompressedError(f"{arm.name}: {error}") from error


def _applied(
    arm: Arm, recipe: Recipe, module: torch.nn.Module, tokenizer: Any, device: str
) -> torch.nn.Module:
    extra: dict[str, Any] = {}
    method = find(recipe.section, recipe.method)
    if method.trains_on_data:
        from pytest_compsec.classification.opening import preparation_of
        from pytest_compsec.models.model_inputs import pinned_data

        assert arm.data is not None  # The lock pins it with the recipe.
        extra["data"] = pinned_data(arm.data, str(recipe.options["data"]))
        extra["preparation"] = preparation_of(arm, module)
    if method.calibrated:
        from pytest_compsec.compression.calibration import CalibrationTexts

        extra["calibration"] = CalibrationTexts(
            tokenizer, arm.calibration, arm.system, arm.chat_template_kwargs
        )
    implementation = importlib.import_module(_implementation(recipe))
    compressed: torch.nn.Module = implementation.apply(module, recipe.options, device, **extra)
    return compressed


def _check_recipe(
    arm: Arm,
    recipe: Recipe,
    weights: WeightReport,
    kept: tuple[str, ...],
    module: torch.nn.Module,
) -> None:
    implementation = importlib.import_module(_implementation(recipe))
    promise = expectation.promised(implementation, recipe.options, module)
    names = {f"{name}.weight" for name in kept}
    others = tuple(matrix for matrix in weights.matrices if matrix.name not in names)
    try:
        expectation.check(dataclasses.replace(weights, matrices=others), promise)
    except NotCompressedError as error:
        raise NotCompressedError(f"{arm.name}: {error}") from error


def _with_adapter(arm: Arm, module: torch.nn.Module, adapter: StagedFiles) -> torch.nn.Module:
    from pytest_compsec.models.compressed_adapter import attach_adapter

    module = attach_adapter(module, adapter, arm.name)
    return module.eval().requires_grad_(False)


def _in_llama_cpp(arm: Arm) -> LoadedModel:
    from pytest_compsec.models.llama_cpp import load_llama_cpp

    with _explained(arm):
        return load_llama_cpp(arm)


def _implementation(recipe: Recipe) -> str:
    return find(recipe.section, recipe.method).implementation


def _sets_dtype(recipe: Recipe) -> bool:
    return hasattr(importlib.import_module(_implementation(recipe)), "run_dtype")


@contextlib.contextmanager
def _explained(arm: Arm) -> Iterator[None]:
    """Turn whatever the libraries raise into one LoadError that says what to do."""
    try:
        yield
    except CompsecError:
        raise
    except Exception as error:
        raise LoadError(explain(arm, error)) from error


#: What a model of each task is, and the class of transformers that knows which there are.
_KINDS = {
    "text-generation": ("causal language model", "AutoModelForCausalLM"),
    "image-classification": ("image classifier", "AutoModelForImageClassification"),
    "text-classification": ("text classifier", "AutoModelForSequenceClassification"),
}


def explain(arm: Arm, error: Exception) -> str:
    """One line for a failure of the libraries underneath: what, where, what to do."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    source = arm.files.provenance.get("source")
    where = f"{arm.name} ({source})" if source else arm.name
    lowered = text.lower()
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "out of memory" in lowered:
        return (
            f"{where}: not enough memory to load the model. Choose a smaller float type with "
            "'dtype', another 'device', or free memory (other programs, a smaller --numprocesses)"
        )
    if kind in ("SafetensorError", "BadZipFile") or "safetensor" in lowered:
        file = _unreadable(arm) or "a weights file"
        return (
            f"{where}: {file} cannot be read, it is truncated or corrupted "
            f"({_short(text)}). Fetch it again, then run `compsec pin`"
        )
    if "does not recognize this architecture" in lowered or (
        isinstance(error, KeyError) and "model_type" in lowered
    ):
        return (
            f"{where}: transformers {_version('transformers')} does not know this architecture "
            f"({_short(text)}). Upgrade it: pip install --upgrade transformers"
        )
    if "unrecognized configuration class" in lowered or "unrecognized model" in lowered:
        wanted, auto = _KINDS[arm.task]
        return (
            f"{where}: this is no {wanted} that transformers {_version('transformers')} can load; "
            f"only models that {auto} knows are supported"
        )
    if "trust_remote_code" in lowered or "custom code" in lowered:
        return (
            f"{where}: the model needs code that it ships itself, and such code is never run. Use "
            "an architecture that transformers has built in"
        )
    if isinstance(error, ImportError):
        return f"{where}: loading needs a package that is not installed: {_short(text)}"
    return f"{where}: the model cannot be loaded ({kind}: {_short(text)})"


def _unreadable(arm: Arm) -> str | None:
    """The first weights file that cannot be opened; the library does not name it."""
    from safetensors import safe_open

    for path in sorted(arm.files.directory.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except Exception:  # whatever is wrong with it
            return path.name
    return None


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)
