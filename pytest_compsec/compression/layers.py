"""Structured pruning of whole decoder layers: those that the recipe names, or those that change the
hidden states least on calibration texts.

The block influence of a layer is the mean of 1 − cos(x, y) over tokens, where x goes into it and y
comes out (ShortGPT, Men et al. 2024, arXiv 2403.03853), measured once on the dense model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.calibration import CalibrationTexts
from pytest_compsec.compression.calibration_loss import require_calibration
from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.compression.structure import Removed, remember_dense
from pytest_compsec.errors import NotCompressedError

if TYPE_CHECKING:
    import torch


def expected(options: Mapping[str, Any]) -> Expectation:
    """``count`` layers, or as many as ``drop`` lists, are gone."""
    drop = options.get("drop")
    count = int(options["count"]) if drop is None else len(drop)
    return Expectation(removed=Removed("layers", count=count))


def apply(
    module: torch.nn.Module,
    options: Mapping[str, Any],
    device: str,
    *,
    calibration: CalibrationTexts | None = None,
) -> torch.nn.Module:
    """Remove the layers, renumber the others, update the config, and put ``module`` on ``device``.
    Of layers of equal influence the first go.

    Raises NotCompressedError when the layout is not understood, when a layer that ``drop`` lists is
    not there, when none would be left, and when no config can say what is left.
    """
    from pytest_compsec.compression.blocks import decoder_layers
    from pytest_compsec.compression.removal import check_config_expresses, kept_units

    total = len(decoder_layers(module))
    drop = options.get("drop")
    removed = int(options["count"]) if drop is None else len(drop)
    if removed >= total:
        raise NotCompressedError(f"{removed} layers were to be removed, and the model has {total}")
    module.to(device)
    if drop is None:
        texts = require_calibration(calibration)
        influence = block_influence(module, texts.batches(device))
        kept = kept_units(influence, removed).tolist()
    else:
        missing = [index for index in drop if not 0 <= index < total]
        if missing:
            raise NotCompressedError(
                f"'drop' lists layer {missing[0]}, and the layers are numbered 0 to {total - 1}"
            )
        kept = [index for index in range(total) if index not in set(drop)]
    remember_dense(module)
    keep_layers(module, kept)
    check_config_expresses(module)
    return module


def block_influence(
    module: torch.nn.Module, batches: Iterable[Mapping[str, torch.Tensor]]
) -> torch.Tensor:
    """Mean of 1 − cos(input, output) over all tokens that are no padding, for each decoder layer:
    float64 of shape (layers,) on the CPU. Raises NotCompressedError for texts without tokens."""
    import torch

    from pytest_compsec.compression.blocks import block_inputs, decoder_layers

    layers = decoder_layers(module)
    sums = torch.zeros(len(layers), dtype=torch.float64)
    tokens = 0
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                (states,) = block_inputs(module, layers, [batch])
                for index in range(len(layers)):
                    before, states.hidden = states.hidden, states.run(layers, index)
                    cosine = torch.nn.functional.cosine_similarity(
                        before[states.mask].float(), states.hidden[states.mask].float(), dim=-1
                    )
                    sums[index] += (1.0 - cosine.double()).sum().cpu()
                tokens += int(states.mask.sum())
    finally:
        module.train(training)
    if tokens == 0:
        raise NotCompressedError("the calibration texts hold no token")
    if not bool(sums.isfinite().all()):
        raise NotCompressedError("the hidden states are not finite on the calibration texts")
    return sums / tokens


def keep_layers(module: torch.nn.Module, kept: Sequence[int]) -> None:
    """Leave only these decoder layers, numbered anew so that each has its own place in the cache,
    in place; the config and its lists of a value per layer say so."""
    from pytest_compsec.compression.blocks import decoder_layers, text_config

    layers, config = decoder_layers(module), text_config(module)
    total = len(layers)
    chosen = [layers[index] for index in kept]
    for name, value in config.to_dict().items():
        if "layer" in name and isinstance(value, list | tuple) and len(value) == total:
            setattr(config, name, [value[index] for index in kept])
    config.num_hidden_layers = len(chosen)
    del layers[len(chosen) :]
    for place, layer in enumerate(chosen):
        layers[place] = layer
        for child in layer.modules():
            if isinstance(getattr(child, "layer_idx", None), int):
                child.layer_idx = place  # type: ignore[assignment]
