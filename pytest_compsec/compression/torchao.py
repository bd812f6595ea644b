"""torchao: weight-only integers of 8, 4, 3 or 2 bits with one scale per group of inputs or per
output channel, by ``torchao.quantization.quantize_`` (https://github.com/pytorch/ao), which is
what transformers' ``TorchAoConfig`` calls.

torchao has packed 4-bit storage for some accelerators only. What runs on every device, and is used
here, keeps each code of fewer than 8 bits in a byte of its own (``IntxUnpackedToInt8Tensor``): the
model answers as the packed one would, and takes the memory of an 8-bit one. The weights are
therefore measured as 8 bits in memory with 2^bits levels in each group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.compression.weight_only import check_layers, import_quietly, linear_layers
from pytest_compsec.models.quiet import quiet

if TYPE_CHECKING:
    import torch


def expected(options: Mapping[str, Any]) -> Expectation:
    """At most 2^bits values in each group, and at most 8 bits in memory."""
    return Expectation(
        max_bits=8.0, max_levels=2 ** int(options["bits"]), group_size=options["group_size"]
    )


def apply(module: torch.nn.Module, options: Mapping[str, Any], device: str) -> torch.nn.Module:
    """Quantize the linear layers of ``module`` in place and put everything on ``device``.

    The layers compute in the float type that the module has. The output embedding and the
    embeddings stay. Raises MissingExtraError, and NotCompressedError naming a layer whose inputs
    are no multiple of the group size.
    """
    library = import_quietly(
        "torchao.quantization",
        package="torchao",
        extra="torchao",
        purpose="quantize: {method: torchao}",
    )
    layers = linear_layers(module)
    check_layers(layers, method="torchao", group_size=options["group_size"])
    settings = _settings(library, options)
    with quiet():
        for _, layer in layers:
            # One at a time, so the device never holds the dense model.
            layer.to(device)
            library.quantize_(layer, settings)
        return module.to(device).eval()


def _settings(library: Any, options: Mapping[str, Any]) -> Any:
    import torch

    bits, group_size = int(options["bits"]), options["group_size"]
    if bits == 8 and options["symmetric"] and group_size is None:
        # What 8-bit torchao models are usually made with. By default it also changes settings of
        # torch for the whole process (before 0.18 the precision of every product in float32).
        return library.Int8WeightOnlyConfig(set_inductor_config=False)
    mapping = library.MappingType
    return library.IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{bits}"),
        granularity=library.PerAxis(0) if group_size is None else library.PerGroup(group_size),
        mapping_type=mapping.SYMMETRIC if options["symmetric"] else mapping.ASYMMETRIC,
    )
