"""The grid of one GPTQ layer: which values its weights may have, with groups in any order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# In a checkpoint: a scale is a float16; the zero point of a group has as many bits as a code.
_SCALE_BITS = 16


@dataclasses.dataclass(frozen=True)
class GptqGrid:
    """The values ``scale × (code - zero)`` for the codes from 0 to 2^bits - 1, computed in the
    float type of ``scales`` as the unpacked checkpoint has them.

    ``scales`` and ``zeros``: (groups, output channels). ``groups``: the group of each input,
    (inputs,), in any order (act-order). ``group_size`` inputs belong to each group at most, None:
    any number.
    """

    scales: torch.Tensor
    zeros: torch.Tensor
    groups: torch.Tensor
    bits: int
    group_size: int | None

    @property
    def levels(self) -> int:
        """The number of values in a group of an output channel."""
        return int(2**self.bits)

    def holds(self, weight: torch.Tensor) -> bool:
        """Whether every value of ``weight`` (output channels, inputs) is, bit for bit, a value of
        its group's grid, and no group is larger than ``group_size``."""
        import torch

        if weight.dtype != self.scales.dtype or tuple(weight.shape) != (
            self.scales.shape[1],
            self.groups.numel(),
        ):
            return False
        if self.group_size is not None and int(self.groups.bincount().max()) > self.group_size:
            return False
        groups = self.groups.to(weight.device)
        scales = self.scales.to(weight.device)[groups].T
        zeros = self.zeros.to(weight.device)[groups].T.to(torch.int32)
        # At most 255 steps, each product rounded to 8 bits of precision or more: off by less than
        # half a step, so that the nearest step is the one meant.
        steps = torch.where(scales == 0, 0, weight.float() / scales.float()).nan_to_num()
        codes = (steps.clamp(-self.levels, self.levels).round().int() + zeros).clamp(
            0, self.levels - 1
        )
        return torch.equal((codes - zeros).to(weight.dtype) * scales, weight)

    def packed_bytes(self, shape: Sequence[int]) -> int:
        """Bytes of a weight of ``shape`` in a checkpoint: codes, scales and zero points. The group
        of each input, which checkpoints list too, is not counted."""
        codes = math.prod(shape) * self.bits
        return math.ceil((codes + self.scales.numel() * (_SCALE_BITS + self.bits)) / 8)

    def packed_bits_per_weight(self, shape: Sequence[int]) -> float:
        """:meth:`packed_bytes` in bits per weight."""
        return 8.0 * self.packed_bytes(shape) / math.prod(shape)
