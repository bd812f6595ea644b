"""Cast: every float weight in a 16-bit float type, rounded to nearest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.casting import cast_floats

if TYPE_CHECKING:
    import torch


def run_dtype(options: Mapping[str, Any]) -> str:
    """The float type in which the variant runs, whatever the model's ``dtype`` says."""
    return str(options["dtype"])


def expected(options: Mapping[str, Any]) -> Expectation:
    """No weight matrix of any kind holds more than 16 bits per weight."""
    return Expectation(max_bits=16.0, roles=("linear", "embedding", "output", "convolution"))


def apply(module: torch.nn.Module, options: Mapping[str, Any], device: str) -> torch.nn.Module:
    """Cast ``module`` in place and put it on ``device``.

    Raises NotCompressedError when it holds no weight wider than 16 bits, since then there is
    nothing to compress and the verdict would compare a model with (nearly) itself.
    """
    import torch

    if not any(p.is_floating_point() and p.element_size() > 2 for p in module.parameters()):
        held = sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})
        raise NotCompressedError(
            f"a cast to {options['dtype']} compresses nothing here: the checkpoint already holds "
            f"{', '.join(held)}"
        )
    return cast_floats(module, getattr(torch, str(options["dtype"]))).to(device)
