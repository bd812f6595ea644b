"""2:4 semi-structured magnitude pruning: of every four consecutive inputs of an output channel the
two smallest weights become zero, the pattern that sparse tensor cores compute at double speed
(Mishra et al. 2021, arXiv 2104.08378). The weights stay stored densely: the answers are those of
the sparse kernels, the memory and the speed are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.compression.masks import two_smallest_of_four
from pytest_compsec.errors import NotCompressedError

if TYPE_CHECKING:
    import torch

    from pytest_compsec.compression.prunable import PrunableLayer


def expected(options: Mapping[str, Any]) -> Expectation:
    """Every four consecutive inputs of each linear layer hold at most two nonzero weights."""
    return Expectation(two_four=True)


def apply(module: torch.nn.Module, options: Mapping[str, Any], device: str) -> torch.nn.Module:
    """Prune in place, for good, and put ``module`` on ``device``. Of equal magnitudes the first go.

    Raises NotCompressedError, naming the layer, when its number of inputs is no multiple of four,
    for weights that are not finite floats, and when nothing changes.
    """
    from pytest_compsec.compression.prunable import prunable_layers, require_changed

    layers = prunable_layers(module)
    require_fours(layers)
    changed = False
    for layer in layers:
        changed |= layer.zero(two_smallest_of_four(layer.rows.abs()))
    require_changed(changed, len(layers))
    return module.to(device)


def require_fours(layers: Sequence[PrunableLayer]) -> None:
    """Raise NotCompressedError when the inputs of a layer cannot be cut into fours."""
    for layer in layers:
        inputs = layer.rows.shape[1]
        if inputs % 4:
            raise NotCompressedError(
                f"{layer.name} has {inputs} inputs, no multiple of 4, so it cannot take the 2:4 "
                "pattern. Name it in 'keep_in_full_precision' to leave it as it is"
            )
