"""Magnitude pruning layer by layer: every linear layer, or every output channel, loses the same
share of its weights, the smallest ones (Han et al. 2015, arXiv 1506.02626); so does every
convolution of a model that is no language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.compression.masks import smallest_of_rows
from pytest_compsec.compression.treated import treated_roles

if TYPE_CHECKING:
    import torch

# Shares are exact up to one weight; this allows for float rounding of shares.
_TOLERANCE = 1e-6


def expected(options: Mapping[str, Any], module: torch.nn.Module | None = None) -> Expectation:
    """At least ``sparsity`` of the weights of each linear layer (``per: row``: of each of its
    output channels) are zero, and of each convolution of a ``module`` that is no language model."""
    share, roles = float(options["sparsity"]) - _TOLERANCE, treated_roles(module)
    if options.get("per") == "row":
        return Expectation(min_row_zeros=share, roles=roles)
    return Expectation(min_layer_zeros=share, roles=roles)


def apply(module: torch.nn.Module, options: Mapping[str, Any], device: str) -> torch.nn.Module:
    """Prune in place, for good (no mask stays), and put ``module`` on ``device``.

    Exactly ``ceil(sparsity × n)`` of the n weights of each linear layer but the output embedding
    (and of each convolution, of a model that is no language model) become zero, or of each of
    its rows. Of equal magnitudes the first go.

    Raises NotCompressedError for weights that are not finite floats, or when nothing changes.
    """
    from pytest_compsec.compression.magnitude import smallest_overall
    from pytest_compsec.compression.prunable import prunable_layers, require_changed

    layers = prunable_layers(module, convolutions=True)
    share = float(options["sparsity"])
    changed = False
    for layer in layers:
        if options.get("per") == "row":
            mask = smallest_of_rows(layer.rows.abs(), share)
        else:
            (mask,) = smallest_overall([layer.rows], share)
        changed |= layer.zero(mask)
    require_changed(changed, len(layers))
    return module.to(device)
