"""HQQ: half-quadratic quantization to 8, 4, 3, 2 or 1 bits without data (Badri and Shaji 2023,
https://mobiusml.github.io/hqq_blog/), by the library ``hqq`` itself.

transformers' ``HqqConfig`` refuses to work in version 5 ("not available yet"), so each linear layer
is replaced by the library's own ``HQQLinear`` with the settings that ``HqqConfig`` has: groups
along the inputs, scales and zero points in the float type of the model. The layer keeps packed
codes and unpacks them at every call, which is the library's own way without a CUDA backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.compression.weight_only import check_layers, import_quietly, linear_layers
from pytest_compsec.errors import NotCompressedError
from pytest_compsec.models.quiet import quiet

if TYPE_CHECKING:
    import torch

# Ten 3-bit codes share 32 bits; the last word of a small matrix may be partly empty.
_STORED_BITS = {3: 4.0}
_CODES_PER_BYTE = {4: 2, 2: 4, 1: 8}


def expected(options: Mapping[str, Any]) -> Expectation:
    """At most 2^bits values in each group, in codes that really take ``bits`` bits (3 bits: at most
    4, as hqq packs them)."""
    bits = int(options["bits"])
    return Expectation(
        max_bits=_STORED_BITS.get(bits, float(bits)),
        max_levels=2**bits,
        group_size=options["group_size"],
    )


def apply(module: torch.nn.Module, options: Mapping[str, Any], device: str) -> torch.nn.Module:
    """Replace the linear layers of ``module`` in place and put everything on ``device``.

    The layers compute in the float type that the module has. The output embedding and the
    embeddings stay. Raises MissingExtraError, and NotCompressedError naming a layer whose shape
    does not fit the groups.
    """
    library = import_quietly(
        "hqq.core.quantize", package="hqq", extra="hqq", purpose="quantize: {method: hqq}"
    )
    bits, group_size = int(options["bits"]), options["group_size"]
    layers = linear_layers(module)
    check_layers(layers, method="hqq", group_size=group_size)
    _check_packable(layers, bits, group_size)
    settings = library.BaseQuantizeConfig(nbits=bits, group_size=group_size, axis=1)
    with quiet():
        for name, layer in layers:
            # hqq clones the bias; without this the clone would remember the gradient of it.
            layer.requires_grad_(False)
            replacement = library.HQQLinear(
                layer, settings, compute_dtype=layer.weight.dtype, device=device
            )
            module.set_submodule(name, replacement)
        # HQQLinear places itself; its own ``to`` does nothing.
        return module.to(device).eval()


def _check_packable(
    layers: list[tuple[str, torch.nn.Linear]], bits: int, group_size: int | None
) -> None:
    # hqq puts the codes of several groups into one byte and fails without a word on what is left.
    together = _CODES_PER_BYTE.get(bits, 1)
    for name, layer in layers:
        groups = layer.out_features * (layer.in_features // (group_size or layer.in_features))
        if groups % together:
            raise NotCompressedError(
                f"hqq cannot pack {name} at 'bits: {bits}': its {groups} groups are no multiple of "
                f"{together}. Choose another 'bits' or 'group_size', or keep the layer with "
                "'keep_in_full_precision'"
            )
