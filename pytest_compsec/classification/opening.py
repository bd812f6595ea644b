"""Turn verified files of a Hugging Face classifier into a module, and say how it is fed.

Only safetensors are opened, only from the staged directory, never with code from it. The module of
a ``python:`` source comes from :mod:`pytest_compsec.models.python_source`; how it is fed and how
many classes it has are said here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.classification.pixels import image_preparation
from pytest_compsec.classification.preparation import (
    ImagePreparation,
    Preparation,
    TextPreparation,
)
from pytest_compsec.classification.shapes import class_count
from pytest_compsec.errors import LoadError
from pytest_compsec.models.arm import Arm

if TYPE_CHECKING:
    import torch

TASKS = ("image-classification", "text-classification")
_NO_LIMIT = 1_000_000  # tokenizers without a limit say 1e30


def open_huggingface_classifier(arm: Arm, *, dtype: str, device: str) -> torch.nn.Module:
    """The module of ``arm.files`` with its classification head, in ``dtype`` on ``device``,
    quantized as its files are (bitsandbytes, compressed-tensors, torchao), in evaluation mode.

    Raises LoadError when weights are missing (the head above all), left over or of another shape
    than the architecture has; when the head is no single-label head of at least two classes; for a
    GGUF file; and as :func:`pytest_compsec.models.checkpoints.open_module` does.
    """
    task = task_of(arm)
    if arm.files.entry is not None:
        raise LoadError(
            f"{arm.name}: {arm.files.entry} is a single file, and a classifier is opened from a "
            "model directory (config.json and *.safetensors)"
        )
    _check_single_label(arm)
    module = _opened(arm, _architecture(task), dtype=dtype, device=device)
    return module.eval()


def preparation_of(arm: Arm, module: torch.nn.Module) -> Preparation:
    """How inputs are put to ``module``.

    Hugging Face images: as ``preprocessor_config.json`` says, see
    :func:`pytest_compsec.classification.pixels.image_preparation`. Hugging Face texts: by the
    tokenizer beside the weights, cut off at what model and tokenizer can take. A module of a
    ``python:`` source is called with one positional argument: a batch of images as the evaluation
    data have them, or a list of str; it normalizes or tokenizes by itself.
    """
    images = task_of(arm) == "image-classification"
    if is_python(arm):
        return ImagePreparation() if images else TextPreparation()
    if images:
        return image_preparation(arm.name, arm.files.directory)
    from pytest_compsec.models.checkpoints import open_tokenizer

    tokenizer = open_tokenizer(arm)
    config: Any = getattr(module, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    padding = getattr(config, "pad_token_id", None)
    return TextPreparation(
        tokenizer=tokenizer,
        max_length=_longest(tokenizer, module),
        # Decoders find the last real token by the config's padding token: any other one would
        # silently have them classify padding.
        pads=tokenizer.pad_token_id is not None and tokenizer.pad_token_id == padding,
    )


def classes_of(arm: Arm, module: torch.nn.Module) -> int:
    """How many classes ``module`` has: ``num_labels`` of a Hugging Face config, else an attribute
    ``num_classes`` of the module, else the outputs of its last linear layer or convolution.

    Raises LoadError when that is unknown or fewer than two.
    """
    found = class_count(module)
    if found is None or found < 2:
        what = "that cannot be seen" if found is None else f"it has {found}"
        raise LoadError(
            f"{arm.name}: a classifier has two or more classes, and {what}. Give the module an "
            "attribute 'num_classes'"
        )
    return found


def task_of(arm: Arm) -> str:
    """``image-classification`` or ``text-classification``; LoadError for any other task."""
    if arm.task not in TASKS:
        raise LoadError(f"{arm.name}: task {arm.task!r} is not one of {', '.join(TASKS)}")
    return arm.task


def is_python(arm: Arm) -> bool:
    """Whether a factory of the user's makes the module (``source: python:``)."""
    return arm.code is not None


def _opened(arm: Arm, architecture: Any, *, dtype: str, device: str) -> torch.nn.Module:
    """As :mod:`pytest_compsec.models.checkpoints` opens a language model, with the same checks of
    what the files hold against what they claim."""
    import torch

    from pytest_compsec.models import bitsandbytes_files, checkpoints, quantized_checkpoints
    from pytest_compsec.models.completeness import check_complete
    from pytest_compsec.models.devices import read_config
    from pytest_compsec.models.headers import read_headers, weight_files
    from pytest_compsec.models.packed.settings import METHODS, quantization_of

    directory = arm.files.directory
    if (directory / "adapter_config.json").exists():
        # transformers would follow it to another base model, which nothing has pinned.
        raise LoadError(
            f"{arm.name}: the directory holds an adapter (adapter_config.json), and adapters of "
            "classifiers are not supported. Merge it and save the merged model"
        )
    config = read_config(directory)
    stored = read_headers(directory, weight_files(directory))
    quantization = quantization_of(directory)
    options: dict[str, Any] = {}
    if quantization is not None:
        if quantization.method in METHODS:
            raise LoadError(
                f"{arm.name}: {quantization.where}quant_method is {quantization.method!r}, and "
                "classifiers packed by it are not supported. Save the model dense, or quantized "
                "by bitsandbytes"
            )
        checkpoints._check_stored_compressed(arm.name, quantization, stored)
        options = quantized_checkpoints.prepare(arm.name, directory, config)
        checkpoints._check_readable(arm.name, quantization)
        if quantization.method == "bitsandbytes":
            bitsandbytes_files.check(arm.name, directory, quantization, stored)
    module: torch.nn.Module
    module, info = architecture.from_pretrained(
        directory,
        dtype=getattr(torch, dtype),
        device_map={"": device},
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # reported, then refused below with the names
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
        **options,
    )
    check_complete(arm.name, info)
    if quantization is None:
        checkpoints._check_stored_as_floats(arm.name, stored, module)
    else:
        checkpoints._check_loaded_compressed(arm.name, quantization, stored, module)
    quantized_checkpoints.finish(arm.name, directory, config, module)
    return module


def _architecture(task: str) -> Any:
    """Untyped on purpose: what from_pretrained returns depends on its arguments."""
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    images = task == "image-classification"
    return AutoModelForImageClassification if images else AutoModelForSequenceClassification


def _check_single_label(arm: Arm) -> None:
    """A head of one number, or of several labels at once, has no predicted class."""
    from pytest_compsec.models.devices import read_config

    config = read_config(arm.files.directory)
    kind = config.get("problem_type")
    if kind not in (None, "single_label_classification"):
        raise LoadError(
            f"{arm.name}: config.json: problem_type is {kind!r}; only models that choose one class "
            "(single_label_classification) are supported"
        )
    labels = config.get("id2label")
    number = len(labels) if isinstance(labels, Mapping) else config.get("num_labels", 2)
    if number == 1:
        raise LoadError(
            f"{arm.name}: config.json names one label, so the model gives a number and chooses no "
            "class; only classifiers of two or more classes are supported"
        )


def _longest(tokenizer: Any, module: torch.nn.Module) -> int | None:
    """The most tokens of one text: what the tokenizer says, and what positions the model has."""
    limits = [getattr(tokenizer, "model_max_length", None)]
    limits.append(getattr(getattr(module, "config", None), "max_position_embeddings", None))
    for name, layer in module.named_modules():
        padding = getattr(layer, "padding_idx", None)
        rows = getattr(layer, "num_embeddings", None)
        if name.endswith("position_embeddings") and rows is not None and padding is not None:
            # Positions of RoBERTa and its kin begin after the one of padding.
            limits.append(rows - padding - 1)
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < _NO_LIMIT]
    return min(known) if known else None
