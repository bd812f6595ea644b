"""Let gradients through a compressed model while it is fine-tuned, and prove that they pass.

bitsandbytes repacks 4-bit weights for the bfloat16 instructions of a CPU when a layer first answers
in evaluation mode. Repacked weights are multiplied by an operation that passes no gradient back,
with a warning at most: training would go on and learn next to nothing. Its own way back (taken
when a layer is saved) leaves the scales of matrices wider than one block in transposed order
(0.50.2), so a model that has answered must not be trained, or saved, as it is.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import LoadError
from pytest_compsec.models.compressed_adapter import (
    adapted_layers,
    adapter_parameters,
    compute_dtype,
)

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def gradients_pass(module: torch.nn.Module) -> Iterator[None]:
    """Training mode for a ``module`` with an adapter on it. On leaving, it is in evaluation mode
    and its compressed weights are the very tensors that they were.

    Raises LoadError, naming the layer, when no gradient passes through a compressed layer.
    """
    packed: list[Any] = [layer for layer in module.modules() if is_repacked(layer)]
    kept = [(layer, layer.weight.data, layer.weight.quant_state) for layer in packed]
    module.train()
    try:
        for layer in packed:
            _unpack(layer)
        for name, wrapper in adapted_layers(module):
            _prove(name, wrapper, compute_dtype(module))
        yield
    finally:
        module.eval()
        for layer, data, state in kept:
            layer.weight.data, layer.weight.quant_state = data, state


def is_repacked(layer: Any) -> bool:
    """Whether this is a 4-bit layer whose weights bitsandbytes has repacked for the CPU."""
    state = getattr(getattr(layer, "weight", None), "quant_state", None)
    return bool(getattr(state, "packing_format_for_cpu", False))


def _unpack(layer: Any) -> None:
    """Codes and scales in bitsandbytes' usual order. The scales keep the bfloat16 values that the
    repacked layer computes with."""
    import torch

    # The way back changes the state's attributes; the one that is put back later must not change.
    layer.weight.quant_state = copy.copy(layer.weight.quant_state)
    layer.state_dict()
    state = layer.weight.quant_state
    if state.absmax.dim() == 2:
        state.absmax = state.absmax.t().reshape(-1).to(torch.float32)


def _prove(name: str, wrapper: Any, dtype: torch.dtype) -> None:
    import torch

    layer = wrapper.get_base_layer()
    device = adapter_parameters(wrapper)[0].device
    probe = torch.ones((2, wrapper.in_features), dtype=dtype, device=device, requires_grad=True)
    result = layer(probe)
    if result.requires_grad:
        result.float().square().sum().backward()
    if probe.grad is None or not bool(probe.grad.any()):
        raise LoadError(
            f"no gradient passes through {name} ({type(layer).__name__}), so a model compressed "
            "in this way cannot be fine-tuned here"
        )
