"""Global unstructured magnitude pruning: the smallest weights of all linear layers become zero,
and of the convolutions of a model that is no language model.

The rule of Han et al. 2015 (arXiv 1506.02626) with one threshold over all layers, as
``torch.nn.utils.prune.global_unstructured`` with ``L1Unstructured`` has it. That reference
concatenates every weight and keeps a mask beside it; here the threshold is found by counting the
bit patterns of magnitudes, layer by layer, so no copy of the model is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.compression.masks import pruned_count
from pytest_compsec.compression.treated import treated_roles

if TYPE_CHECKING:
    import torch

# The share of pruned weights is exact up to one weight; this allows for float rounding of shares.
_TOLERANCE = 1e-6


def expected(options: Mapping[str, Any], module: torch.nn.Module | None = None) -> Expectation:
    """At least ``sparsity`` of all weights of linear layers are zero (of a ``module`` that is no
    language model: of linear layers and convolutions together)."""
    return Expectation(
        min_zero_fraction=float(options["sparsity"]) - _TOLERANCE, roles=treated_roles(module)
    )


def apply(module: torch.nn.Module, options: Mapping[str, Any], device: str) -> torch.nn.Module:
    """Prune in place, for good (no mask stays), and put ``module`` on ``device``.

    Exactly ``ceil(sparsity × n)`` of the n weights of all linear layers but the output embedding
    (and all convolutions, of a model that is no language model) are pruned. Of equal
    magnitudes at the threshold the first in layer order go, so that the result is the same
    everywhere.

    Raises NotCompressedError for weights that are not finite floats, or when nothing changes.
    """
    from pytest_compsec.compression.prunable import prunable_layers, require_changed

    layers = prunable_layers(module, convolutions=True)
    masks = smallest_overall([layer.rows for layer in layers], float(options["sparsity"]))
    changed = False
    for layer, mask in zip(layers, masks, strict=True):
        changed |= layer.zero(mask)
    require_changed(changed, len(layers))
    return module.to(device)


def prune_globally(weights: Sequence[torch.Tensor], sparsity: float) -> None:
    """Zero the ``ceil(sparsity × n)`` smallest magnitudes of all ``weights`` together, in place."""
    for weight, mask in zip(weights, smallest_overall(weights, sparsity), strict=True):
        weight[mask] = 0


def smallest_overall(weights: Sequence[torch.Tensor], share: float) -> Iterator[torch.Tensor]:
    """For each of ``weights``, all of one float type, a mask of those that are among the
    ``ceil(share × n)`` smallest magnitudes of all together. Of equal magnitudes the first go."""
    wanted = pruned_count(share, sum(weight.numel() for weight in weights))
    threshold, below = _threshold(weights, wanted)
    ties_left = wanted - below
    for weight in weights:
        keys = _magnitude_keys(weight)
        mask = keys < threshold
        if ties_left > 0:
            ties = (keys == threshold).flatten()
            chosen = ties & (ties.cumsum(0) <= ties_left)
            ties_left -= int(chosen.sum())
            mask |= chosen.view(weight.shape)
        yield mask


def _threshold(weights: Sequence[torch.Tensor], wanted: int) -> tuple[int, int]:
    """The magnitude key of the ``wanted``-th smallest weight, and how many keys are below it.

    A radix select over 8 bits a step: positive floats order as their bit patterns do.
    """
    import torch

    bits = 8 * weights[0].element_size()
    prefix, below = 0, 0
    for shift in range(bits - 8, -1, -8):
        counts = torch.zeros(256, dtype=torch.int64)
        for weight in weights:
            keys = _magnitude_keys(weight).flatten()
            if shift + 8 < bits:
                keys = keys[(keys >> (shift + 8)) == prefix]
            counts += torch.bincount((keys >> shift) & 255, minlength=256).cpu()
        cumulative = (below + counts.cumsum(0)).tolist()
        digit = next(i for i, count in enumerate(cumulative) if count >= wanted)
        below = cumulative[digit] - int(counts[digit])
        prefix = (prefix << 8) | digit
    return prefix, below


def _magnitude_keys(weight: torch.Tensor) -> torch.Tensor:
    """Integers that order as the magnitudes do: the bit pattern without its sign."""
    import torch

    patterns = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    return weight.abs().contiguous().view(patterns)
