"""bitsandbytes: LLM.int8() row-wise 8 bits (Dettmers et al. 2022, arXiv 2208.07339) and block-wise
4 bits, NF4 or FP4 (QLoRA, Dettmers et al. 2023, arXiv 2305.14314).

Every linear layer but the output embedding is replaced, as transformers' own
``BitsAndBytesConfig`` does by default; a test holds the two to the same codes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.compression.expectation import Expectation
from pytest_compsec.errors import MissingExtraError
from pytest_compsec.models.quiet import quiet, silence_int8_cast_warning
from pytest_compsec.models.weights import output_embedding

if TYPE_CHECKING:
    import torch

# Activation columns beyond this magnitude are multiplied in 16 bits: the default of LLM.int8().
_OUTLIER_THRESHOLD = 6.0
_UNSET: Any = object()


def expected(options: Mapping[str, Any]) -> Expectation:
    """Every linear weight matrix holds ``bits`` bits per weight (scales are counted apart)."""
    return Expectation(max_bits=float(options["bits"]))


def apply(module: torch.nn.Module, options: Mapping[str, Any], device: str) -> torch.nn.Module:
    """Replace the linear layers of ``module`` in place and put everything on ``device``.

    The layers compute in the float type that the module has. Each dense weight is dropped as soon
    as it is quantized, so the device never holds the dense model. Raises MissingExtraError.
    """
    import torch

    library = _library()
    output = output_embedding(module)
    with quiet():
        for name, layer in list(module.named_modules()):
            # Exactly nn.Linear: a subclass may compute something else in its forward.
            if type(layer) is torch.nn.Linear and layer is not output:
                module.set_submodule(name, _quantized(library, layer, options, device))
        module.to(device)
    if options["bits"] == 8:
        silence_int8_cast_warning()
    return module


def _quantized(
    library: Any, layer: torch.nn.Linear, options: Mapping[str, Any], device: str
) -> torch.nn.Module:
    import torch

    shape = (layer.in_features, layer.out_features, layer.bias is not None)
    dense = layer.weight.data.to("cpu")
    replacement: torch.nn.Module
    with torch.device("meta"):
        if options["bits"] == 8:
            replacement = library.nn.Linear8bitLt(
                *shape, has_fp16_weights=False, threshold=_OUTLIER_THRESHOLD
            )
        else:
            replacement = library.nn.Linear4bit(
                *shape,
                compute_dtype=layer.weight.dtype,
                compress_statistics=bool(options["double_quant"]),
                quant_type=options["type"],
            )
    if options["bits"] == 8:
        weight = library.nn.Int8Params(dense, requires_grad=False, has_fp16_weights=False)
    else:
        weight = library.nn.Params4bit(
            dense,
            requires_grad=False,
            compress_statistics=bool(options["double_quant"]),
            quant_type=options["type"],
            module=replacement,
        )
    replacement.weight = weight.to(device)  # This is where bitsandbytes quantizes.
    if layer.bias is not None:
        replacement.bias = torch.nn.Parameter(layer.bias.data.to(device), requires_grad=False)
    if options["bits"] == 4 and not _repacks(replacement):
        # Else the first answer on a CPU with AVX512-BF16 fails with an assertion.
        replacement.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return replacement.eval()


def _repacks(layer: Any) -> bool:
    """Whether bitsandbytes can repack a 4-bit layer for bfloat16 instructions of a CPU (0.50): its
    kernel takes output channels by 32, and inputs in whole blocks. Others it multiplies unpacked,
    as on every other CPU."""
    outputs, inputs = layer.weight.quant_state.shape
    return bool(outputs % 32 == 0 and inputs % layer.weight.quant_state.blocksize == 0)


def import_library() -> Any:
    """Import bitsandbytes so that it takes no code from the hub. Raises ImportError.

    On processors with AVX512-BF16 it would, where the package ``kernels`` is installed, download
    compiled code while being imported: code that no lock pins and that computes other answers.
    Its own kernels are always there. Whoever imports something that imports bitsandbytes calls
    this first.
    """
    before = sys.modules.get("kernels", _UNSET)
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        with quiet():
            return importlib.import_module("bitsandbytes")
    finally:
        if before is _UNSET:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = before


def _library() -> Any:
    try:
        return import_library()
    except ImportError as error:
        raise MissingExtraError(
            "bitsandbytes", "bitsandbytes", "quantize: {method: bitsandbytes}"
        ) from error
