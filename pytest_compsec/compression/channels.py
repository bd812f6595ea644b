"""Structured pruning of MLP channels: the least important intermediate channels are removed, the
same number in every layer, so that the model is smaller.

A channel is a row of the gate and of the up projection and a column of the down projection.
Importance: the sum of squares of those, or with calibration texts what the loss loses to first
order when the channel goes (Molchanov et al. 2017, arXiv 1611.06440).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.calibration import CalibrationTexts
from pytest_compsec.compression.calibration_loss import require_calibration
from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.compression.structure import Removed, remember_dense
from pytest_compsec.errors import NotCompressedError

if TYPE_CHECKING:
    import torch

    from pytest_compsec.compression.decoder_parts import MLP


def expected(options: Mapping[str, Any]) -> Expectation:
    """At least ``share`` of the channels of each layer are gone."""
    return Expectation(removed=Removed("channels", share=float(options["share"])))


def apply(
    module: torch.nn.Module,
    options: Mapping[str, Any],
    device: str,
    *,
    calibration: CalibrationTexts | None = None,
) -> torch.nn.Module:
    """Remove ``ceil(share × channels)`` channels of every layer, update the config, and put
    ``module`` on ``device``. Of equally important ones the first go.

    Raises NotCompressedError when the layout is not understood, when no channel would be left, and
    when no config of the architecture can say what is left.
    """
    from pytest_compsec.compression.blocks import text_config
    from pytest_compsec.compression.decoder_parts import mlps
    from pytest_compsec.compression.gates import gate_importance
    from pytest_compsec.compression.removal import check_config_expresses, kept_units, units_removed

    layers = mlps(module)
    counts = [layer.channels for layer in layers]
    if len(set(counts)) > 1:
        raise NotCompressedError(
            "layout not understood: the layers differ in their numbers of channels, and one config "
            "could not say what is left"
        )
    removed = units_removed(float(options["share"]), counts[0], "channels")
    module.to(device)
    if options.get("calibration") is not None:
        downs = [layer.down for layer in layers]
        importance = gate_importance(
            module, downs, counts, require_calibration(calibration), device
        )
    else:
        importance = [channel_magnitude(layer) for layer in layers]
    remember_dense(module)
    for layer, values in zip(layers, importance, strict=True):
        keep_channels(layer, kept_units(values, removed))
    text_config(module).intermediate_size = counts[0] - removed
    check_config_expresses(module)
    return module


def channel_magnitude(layer: MLP) -> torch.Tensor:
    """The sum of squares of each channel's weights in the three projections: float64,
    (channels,)."""
    gate, up, down = (
        projection.weight.detach().double().square()
        for projection in (layer.gate, layer.up, layer.down)
    )
    return gate.sum(1) + up.sum(1) + down.sum(0)


def keep_channels(layer: MLP, channels: torch.Tensor) -> None:
    """Leave only these channels, in place."""
    from pytest_compsec.compression.removal import keep_inputs, keep_outputs

    keep_outputs(layer.gate, channels)
    keep_outputs(layer.up, channels)
    keep_inputs(layer.down, channels)
    if hasattr(layer.module, "intermediate_size"):
        layer.module.intermediate_size = len(channels)  # type: ignore[assignment]
