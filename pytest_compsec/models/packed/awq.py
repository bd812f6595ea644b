"""One layer of AWQ's GEMM layout (AutoAWQ, ``version: gemm``) turned into dense weights.

Lin et al. 2024 (arXiv 2306.00978); layout: AutoAWQ's ``WQLinear_GEMM`` and GPTQModel's
``AwqTorchLinear``. Both ``qweight`` (inputs, outputs / 8) and ``qzeros`` (groups, outputs / 8) hold
eight neighbouring outputs in a word, in AWQ's order; groups are runs of ``group_size`` inputs::

    weight[j, i] = scales[g, j] * (code[i, j] - zero[g, j]),  g = i // group_size

The scale is taken in the float type that the model runs in, and so is the product: in float16,
where AWQ's kernels compute, the weights agree to the last bit with those of GPTQModel 7.7.0 for a
checkpoint that it made (a test holds them to that). No file made by AutoAWQ itself was tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_compsec.models.packed.integers import unpack_awq

if TYPE_CHECKING:
    import torch


def dense_weight(
    qweight: torch.Tensor,
    qzeros: torch.Tensor,
    scales: torch.Tensor,
    *,
    group_size: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Dense weights (outputs, inputs) in ``dtype``, on the device of ``qweight``.

    ``qweight``: int32, (inputs, outputs / 8). ``qzeros``: int32, (groups, outputs / 8).
    ``scales``: float, (groups, outputs).
    """
    import torch

    group = torch.arange(qweight.shape[0], device=qweight.device) // group_size
    zeros = unpack_awq(qzeros).to(torch.int16)
    steps = unpack_awq(qweight).to(torch.int16) - zeros[group]
    weight = steps.to(dtype) * scales.to(dtype)[group]
    return weight.T.contiguous()
