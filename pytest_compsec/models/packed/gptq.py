"""One layer of the AutoGPTQ format, as AutoGPTQ and GPTQModel write it, turned into dense weights.

For input ``i`` and output ``j``, with the group ``g = g_idx[i]``::

    weight[j, i] = scales[g, j] * (code[i, j] - zero[g, j])

Stored are ``qweight`` (codes down the inputs), ``qzeros`` (zero points along the outputs),
``scales`` and ``g_idx``. The difference is an exact integer; the scale is taken in the float type
that the model runs in, and so is the product. That is what GPTQModel's torch kernel computes: the
weights agree with its own to the last bit (a test holds a checkpoint made by GPTQModel 7.7.0 to
that). Method: Frantar et al. 2023 (arXiv 2210.17323); layout: GPTQModel's ``QuantLinear``.

Zero points come in two versions. ``gptq_v2`` stores them as they are, ``gptq`` (v1) stores them
less one. A zero point of 0 has no place in v1, and what tools make of it differs:
:func:`zero_points` says which reading is taken, and when none is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_compsec.models.packed.integers import unpack_columns, unpack_rows

if TYPE_CHECKING:
    import torch


def dense_weight(
    qweight: torch.Tensor,
    zeros: torch.Tensor,
    scales: torch.Tensor,
    groups: torch.Tensor,
    *,
    bits: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Dense weights (outputs, inputs) in ``dtype``, on the device of ``qweight``.

    ``qweight``: int32, (inputs * bits / 32, outputs). ``zeros``: int16, (groups, outputs), from
    :func:`zero_points`. ``scales``: float, (groups, outputs). ``groups``: the group of each input,
    (inputs,), every one from 0 up to the number of groups.
    """
    import torch

    which = groups.to(torch.int64)
    steps = unpack_rows(qweight, bits).to(torch.int16) - zeros[which]
    # bfloat16 holds every integer up to 256 exactly, and no difference of two codes is larger.
    weight = steps.to(dtype) * scales.to(dtype)[which]
    return weight.T.contiguous()


def zero_points(
    qzeros: torch.Tensor, bits: int, *, less_one: bool, borrows: bool = False
) -> torch.Tensor | None:
    """Zero points (groups, outputs), int16, of ``qzeros`` (groups, outputs * bits / 32), int32.

    ``less_one``: version 1, where each is stored less one. A zero point of 0 then shows as a code
    of all ones, on which tools disagree: GPTQModel from 0.9.0 on subtracts from whole words, so
    the neighbour pays (``borrows``: adding to whole words takes it back exactly, 2, 4 and 8 bits);
    AutoGPTQ spoils the neighbours for good; other kernels read it as ``2 ** bits``. None where
    such a code occurs and ``borrows`` does not say how to read it.
    """
    import torch

    codes = unpack_columns(qzeros, bits).to(torch.int16)
    if not less_one:
        return codes
    if not bool((codes == (1 << bits) - 1).any()):
        return codes + 1
    if not borrows or bits == 3:
        return None
    one_in_each = sum(1 << shift for shift in range(0, 32, bits))
    return unpack_columns(qzeros + one_in_each, bits).to(torch.int16)
