"""How active each output channel of a layer is on clean samples, and which layer is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from pytest_compsec.classification.data import EvaluationData
from pytest_compsec.classification.preparation import Preparation
from pytest_compsec.compression.clean_training import forward, places_of
from pytest_compsec.compression.layouts import is_convolution
from pytest_compsec.compression.prunable import PrunableLayer, prunable_layers
from pytest_compsec.errors import NotCompressedError

# With one scale and shift for each channel.
_NORMS = (
    torch.nn.BatchNorm1d,
    torch.nn.BatchNorm2d,
    torch.nn.BatchNorm3d,
    torch.nn.GroupNorm,
    torch.nn.InstanceNorm1d,
    torch.nn.InstanceNorm2d,
    torch.nn.InstanceNorm3d,
    torch.nn.LayerNorm,
)
_NAMES_SHOWN = 4


def runs(
    module: torch.nn.Module, data: EvaluationData, preparation: Preparation | None, device: str
) -> list[PrunableLayer]:
    """The linear layers and convolutions in the order in which a sample runs through them (last
    use); those that it does not run through are left out.

    Raises NotCompressedError when there is none, or one has weights that are no finite floats.
    """
    layers = prunable_layers(module, convolutions=True)
    used: list[PrunableLayer] = []
    with ExitStack() as stack:
        for layer in layers:

            def note(*_: Any, layer: PrunableLayer = layer) -> None:
                if layer in used:
                    used.remove(layer)
                used.append(layer)

            stack.enter_context(layer.layer.register_forward_pre_hook(note))
        with torch.no_grad():
            forward(module, data, [0], preparation, device)
    return used


def target_layer(
    module: torch.nn.Module, order: Sequence[PrunableLayer], name: str | None
) -> PrunableLayer:
    """The layer called ``name``; None: the last convolution, or where there is none the last linear
    layer before the output.

    Raises NotCompressedError for a name that is none of the layers before the output, for a model
    without one, and without a name for a model with attention, where the paper's choice of layer
    has no meaning.
    """
    hidden = order[:-1]
    if not hidden:
        raise NotCompressedError(
            "fine-pruning finds no layer with channels before the output: the model is one layer"
        )
    if name is not None:
        for layer in hidden:
            if layer.name == name:
                return layer
        raise NotCompressedError(
            f"fine-pruning: 'layer: {name}' is no linear layer or convolution before the output; "
            f"those are {_named(hidden)}"
        )
    if any("attention" in type(part).__name__.lower() for part in module.modules()):
        widening = [
            layer
            for layer in hidden
            if not is_convolution(layer.layout) and layer.rows.shape[0] > layer.rows.shape[1]
        ]
        raise NotCompressedError(
            "fine-pruning looks at the last convolution or the last hidden layer, and in a model "
            f"with attention neither is clear: name one with 'layer', such as "
            f"{(widening or list(hidden))[-1].name!r}"
        )
    convolutions = [layer for layer in hidden if is_convolution(layer.layout)]
    return (convolutions or list(hidden))[-1]


def mean_activity(
    module: torch.nn.Module,
    target: PrunableLayer,
    data: EvaluationData,
    preparation: Preparation | None,
    device: str,
    batch_size: int,
) -> tuple[torch.Tensor, torch.nn.Module | None]:
    """(the mean of max(0, output) of each output channel of ``target`` over all samples, float64,
    on the CPU; the normalization that takes the layer's output as it is, or None). With a
    normalization the output is that of the normalization.

    Raises NotCompressedError for activations that are not finite.
    """
    norm = _norm_after(module, target, data, preparation, device)
    sums = torch.zeros(target.rows.shape[0], dtype=torch.float64)
    counted = 0

    def add(_: Any, __: Any, output: torch.Tensor) -> None:
        nonlocal counted
        # Linear layers have their channels last, convolutions after the samples.
        channels = output if not is_convolution(target.layout) else output.movedim(1, -1)
        flat = channels.detach().reshape(-1, channels.shape[-1]).clamp(min=0)
        sums.add_(flat.double().sum(0).cpu())
        counted += flat.shape[0]

    watched = target.layer if norm is None else norm
    with watched.register_forward_hook(add), torch.no_grad():
        for places in places_of(len(data), batch_size):
            forward(module, data, places, preparation, device)
    activity = sums / max(counted, 1)
    if not bool(activity.isfinite().all()):
        raise NotCompressedError(
            f"fine-pruning: the activations of {target.name} on the clean samples are not finite"
        )
    return activity, norm


def _norm_after(
    module: torch.nn.Module,
    target: PrunableLayer,
    data: EvaluationData,
    preparation: Preparation | None,
    device: str,
) -> torch.nn.Module | None:
    channels = target.rows.shape[0]
    outputs: list[torch.Tensor] = []
    found: list[torch.nn.Module] = []

    def remember(_: Any, __: Any, output: torch.Tensor) -> None:
        outputs.append(output)

    def compare(norm: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if any(inputs[0] is output for output in outputs):
            found.append(norm)

    with ExitStack() as stack:
        stack.enter_context(target.layer.register_forward_hook(remember))
        for part in module.modules():
            weight = getattr(part, "weight", None)
            if isinstance(part, _NORMS) and (weight is None or tuple(weight.shape) == (channels,)):
                stack.enter_context(part.register_forward_pre_hook(compare))
        with torch.no_grad():
            forward(module, data, [0], preparation, device)
    return found[0] if found else None


def _named(layers: Sequence[PrunableLayer]) -> str:
    names = ", ".join(layer.name for layer in layers[-_NAMES_SHOWN:])
    left = len(layers) - _NAMES_SHOWN
    return f"{left} others and {names}" if left > 0 else names
