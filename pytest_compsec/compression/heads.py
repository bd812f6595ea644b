"""Structured pruning of attention heads: the least important ones are removed, the same number in
every layer, so that the model is smaller.

With grouped-query attention a key-value head goes together with all query heads that read it, so
"head" below means such a group; without, a group is one head. Importance: the sum of squares of the
group's slice of the output projection, or with calibration texts what the loss loses to first order
(Michel et al. 2019, arXiv 1905.10650, which prunes heads so).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.calibration import CalibrationTexts
from pytest_compsec.compression.calibration_loss import require_calibration
from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.compression.structure import Removed, remember_dense

if TYPE_CHECKING:
    import torch

    from pytest_compsec.compression.decoder_parts import Attention


def expected(options: Mapping[str, Any]) -> Expectation:
    """At least ``share`` of the heads of each layer are gone."""
    return Expectation(removed=Removed("heads", share=float(options["share"])))


def apply(
    module: torch.nn.Module,
    options: Mapping[str, Any],
    device: str,
    *,
    calibration: CalibrationTexts | None = None,
) -> torch.nn.Module:
    """Remove ``ceil(share × groups)`` groups of heads of every layer, update the config, and put
    ``module`` on ``device``. Of equally important ones the first go.

    Raises NotCompressedError when the layout is not understood, when no head would be left, and
    when no config of the architecture can say what is left.
    """
    from pytest_compsec.compression.decoder_parts import attentions
    from pytest_compsec.compression.gates import gate_importance
    from pytest_compsec.compression.removal import check_config_expresses, kept_units, units_removed

    layers = attentions(module)
    groups = [layer.groups for layer in layers]
    removed = [units_removed(float(options["share"]), count, "groups of heads") for count in groups]
    _check_uniform(layers)
    module.to(device)
    if options.get("calibration") is not None:
        outputs = [layer.output for layer in layers]
        texts = require_calibration(calibration)
        heads = gate_importance(module, outputs, [layer.heads for layer in layers], texts, device)
        importance = [
            values.view(layer.groups, -1).sum(1)
            for values, layer in zip(heads, layers, strict=True)
        ]
    else:
        importance = [output_magnitude(layer) for layer in layers]
    remember_dense(module)
    for layer, values, count in zip(layers, importance, removed, strict=True):
        keep_groups(layer, kept_units(values, count))
    _update_config(module, layers, groups[0] - removed[0])
    check_config_expresses(module)
    return module


def output_magnitude(layer: Attention) -> torch.Tensor:
    """The sum of squares of the output projection's slice of each group: float64, (groups,)."""
    weight = layer.output.weight.detach().double()
    return weight.square().sum(0).view(layer.groups, -1).sum(1)


def keep_groups(layer: Attention, groups: torch.Tensor) -> None:
    """Leave only these key-value heads and the query heads that read them, in place."""
    from pytest_compsec.compression.removal import indices_of, keep_inputs, keep_outputs

    queries = indices_of(groups, layer.heads // layer.groups * layer.head_dim)
    keys = indices_of(groups, layer.head_dim)
    keep_outputs(layer.query, queries)
    keep_outputs(layer.key, keys)
    keep_outputs(layer.value, keys)
    keep_inputs(layer.output, queries)
    heads = len(groups) * (layer.heads // layer.groups)
    attributes = {
        "num_heads": heads,
        "num_attention_heads": heads,
        "num_key_value_heads": len(groups),
    }
    for name, value in attributes.items():
        if hasattr(layer.module, name):
            setattr(layer.module, name, value)


def _check_uniform(layers: Sequence[Attention]) -> None:
    from pytest_compsec.errors import NotCompressedError

    kinds = {(layer.heads, layer.groups, layer.head_dim) for layer in layers}
    if len(kinds) > 1:
        raise NotCompressedError(
            "layout not understood: the layers differ in their numbers of heads, and one config "
            "could not say what is left"
        )


def _update_config(module: torch.nn.Module, layers: Sequence[Attention], groups: int) -> None:
    from pytest_compsec.compression.blocks import text_config

    config = text_config(module)
    # Else it is the hidden size by the number of heads, of which there are fewer now.
    config.head_dim = layers[0].head_dim
    config.num_attention_heads = groups * (layers[0].heads // layers[0].groups)
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = groups
