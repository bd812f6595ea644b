"""The grids of round-to-nearest quantization: which few values a weight matrix may hold, the
rounding to them, and what a matrix on such a grid would take when packed.

Grids: 8 to 2 bits with a symmetric absolute-maximum or an asymmetric minimum-maximum scale
(Krishnamoorthi 2018, arXiv 1806.08342), ternary (Ternary Weight Networks, Li et al. 2016,
arXiv 1605.04711) and binary (XNOR-Net, Rastegari et al. 2016, arXiv 1603.05279), one scale per
output channel or per group of inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_compsec.compression.layouts import Layout

if TYPE_CHECKING:
    import torch

#: Values of the grids that ``levels`` names.
LEVELS = {"ternary": 3, "binary": 2}
# Of Ternary Weight Networks, section 2.2: the threshold as a share of the mean magnitude.
_TERNARY_THRESHOLD = 0.7
# A packed scale is a float16, as in GPTQ checkpoints and GGUF blocks.
_SCALE_BYTES = 2


@dataclasses.dataclass(frozen=True)
class Grid:
    """The values that a quantized matrix may hold: ``code / steps × span`` for the integer codes
    from ``low`` to ``low + count - 1`` (binary: -1 and 1, without 0).

    ``span`` and ``low`` have shape (output channels, groups), ``low`` (1, 1) where it is the same
    everywhere; a group is ``group_size`` inputs, the
    last one may be shorter, and None means all inputs of a channel. ``levels`` is the number of
    values. ``layout``: how the stored tensor is read as a matrix. ``threshold`` (ternary only,
    while rounding): the magnitudes up to which weights of a group become zero.
    """

    span: torch.Tensor
    low: torch.Tensor
    steps: int
    count: int
    levels: int
    group_size: int | None
    layout: Layout = dataclasses.field(default_factory=Layout)
    threshold: torch.Tensor | None = None

    def holds(self, weight: torch.Tensor) -> bool:
        """Whether every value of the stored tensor is, bit for bit, a value of its group's grid."""
        import torch

        rows = self.layout.matrix(weight)
        moved = dataclasses.replace(
            self, span=self.span.to(rows.device), low=self.low.to(rows.device), threshold=None
        )
        on_grid = moved.round(rows).to(rows.dtype)
        return torch.equal(on_grid, rows)

    def round(self, weight: torch.Tensor) -> torch.Tensor:
        """The value of the grid for each of ``weight`` (output channels, inputs), float32: the
        nearest one, or as ``threshold`` says.

        Written as a share of ``span`` so that the outermost code gives ``span`` itself: that is
        what makes a second rounding change nothing.
        """
        import torch

        groups = _grouped(weight, self.group_size)
        span, low = self.span.unsqueeze(-1), self.low.unsqueeze(-1)
        shares = groups / torch.where(span == 0, torch.ones_like(span), span)
        if self.levels == 2:
            codes = torch.where(shares < 0, -1.0, 1.0)
        elif self.threshold is not None:
            codes = groups.sign() * (groups.abs() > self.threshold.unsqueeze(-1))
        else:
            codes = (shares * self.steps).round().clamp(low, low + (self.count - 1))
        # Adding zero turns -0.0 into 0.0.
        values = codes / self.steps * span + 0.0
        return values.flatten(1)[:, : weight.shape[1]]

    @property
    def code_bits(self) -> int:
        """Bits of one packed code: the fewest that tell all values apart. Ternary codes take 2,
        as in the packings that are read fast (five of them in a byte would be 1.6 bits)."""
        return math.ceil(math.log2(self.levels))

    @property
    def has_zero_points(self) -> bool:
        """Whether each group needs an integer zero point beside its scale (asymmetric grids)."""
        return self.count == self.steps + 1

    def packed_bytes(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor of the stored ``shape`` when its codes are packed: the codes, a
        float16 scale for each group, and for asymmetric grids a zero point of as many bits as a
        code for each group, as GPTQ checkpoints hold them.

        The values here are made with float32 scales; in float16 each would move by at most one
        part in 2048.
        """
        groups = self.span.numel()
        codes = math.ceil(math.prod(shape) * self.code_bits / 8)
        zero_points = math.ceil(groups * self.code_bits / 8) if self.has_zero_points else 0
        return codes + groups * _SCALE_BYTES + zero_points

    def packed_bits_per_weight(self, shape: Sequence[int]) -> float:
        """:meth:`packed_bytes` in bits per weight, scales and zero points included."""
        return 8.0 * self.packed_bytes(shape) / math.prod(shape)


def quantize_dequantize(
    weight: torch.Tensor,
    *,
    bits: int | None = None,
    levels: str | None = None,
    group_size: int | None = None,
    symmetric: bool = True,
) -> torch.Tensor:
    """``weight`` (output channels, inputs) with each value rounded to its group's grid.

    ``bits`` from 2 to 8 or ``levels`` (``ternary``, ``binary``); one group per output channel, or
    per ``group_size`` inputs. Symmetric: integers from -(2^(bits-1) - 1) to 2^(bits-1) - 1 times
    absmax / (2^(bits-1) - 1). Asymmetric: 2^bits integers times (max - min) / (2^bits - 1) with an
    integer zero point, where zero belongs to the range, so that it stays exactly zero. Either way
    no value moves by more than half a step. Computed in float32, returned in the weight's type.

    A second call changes no bit, in any float type, but for asymmetric grids: the ends of those
    are rounded themselves, so that the step found again may differ in its last bits.

    Raises ValueError for weights that are no finite float matrix, and for options out of range.
    """
    grid = find_grid(
        weight, bits=bits, levels=levels, group_size=group_size, symmetric=symmetric
    )  # fmt: skip
    return grid.round(weight).to(weight.dtype)


def find_grid(
    weight: torch.Tensor,
    *,
    bits: int | None = None,
    levels: str | None = None,
    group_size: int | None = None,
    symmetric: bool = True,
) -> Grid:
    """The grid on which :func:`quantize_dequantize` puts ``weight``; same errors."""
    import torch

    _check(weight, bits=bits, levels=levels, group_size=group_size, symmetric=symmetric)
    groups = _grouped(weight, group_size)
    if bits is None:
        assert levels is not None
        mean = _mean_magnitude(groups, weight.shape[1])
        low = torch.full_like(groups[:1, :1, 0], -1.0)
        if levels == "binary":
            return Grid(mean.float(), low, 1, 3, 2, group_size)
        threshold = _TERNARY_THRESHOLD * mean
        span = _mean_of_kept(groups, threshold).float()
        return Grid(span, low, 1, 3, 3, group_size, threshold=threshold)
    if symmetric:
        steps = 2 ** (bits - 1) - 1
        span = groups.abs().amax(-1)
        low = torch.full_like(span[:1, :1], -steps)
        return Grid(span, low, steps, 2 * steps + 1, 2 * steps + 1, group_size)
    steps = 2**bits - 1
    lowest, highest = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    span = highest - lowest
    if not bool(span.isfinite().all()):
        raise ValueError("the range of a group of weights is beyond float32")
    shares = -lowest / torch.where(span == 0, torch.ones_like(span), span)
    zero_point = (shares * steps + 0.5).floor()
    return Grid(span, -zero_point, steps, steps + 1, steps + 1, group_size)


def _grouped(weight: torch.Tensor, group_size: int | None) -> torch.Tensor:
    """(output channels, groups, inputs of a group) in float32; a short last group ends in zeros,
    which change neither a maximum magnitude, nor a range with zero in it, nor a sum."""
    import torch

    columns = weight.shape[1]
    size = columns if group_size is None else min(group_size, columns)
    padded = torch.nn.functional.pad(weight.float(), (0, -columns % size))
    return padded.view(weight.shape[0], -1, size)


def _mean_magnitude(groups: torch.Tensor, columns: int) -> torch.Tensor:
    """Per group, of its own elements only.

    Summed in float64: the mean of equal float32 values is then that value, which float32 misses.
    """
    import torch

    counts = torch.full(groups.shape[:-1], groups.shape[-1], device=groups.device)
    counts[:, -1] -= groups.shape[1] * groups.shape[2] - columns
    mean: torch.Tensor = groups.abs().double().sum(-1) / counts
    return mean


def _mean_of_kept(groups: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    magnitudes = groups.abs().double()
    kept = magnitudes > threshold.unsqueeze(-1)
    return (magnitudes * kept).sum(-1) / kept.sum(-1).clamp(min=1)


def _check(
    weight: torch.Tensor,
    *,
    bits: int | None,
    levels: str | None,
    group_size: int | None,
    symmetric: bool,
) -> None:
    if (bits is None) == (levels is None):
        raise ValueError("give exactly one of 'bits' and 'levels'")
    if bits is not None and not 2 <= bits <= 8:
        raise ValueError(f"bits must be from 2 to 8, not {bits}")
    if levels is not None and levels not in LEVELS:
        raise ValueError(f"levels must be ternary or binary, not {levels!r}")
    if levels is not None and not symmetric:
        raise ValueError(f"{levels} weights are symmetric always")
    if group_size is not None and group_size < 1:
        raise ValueError(f"group_size must be at least 1, not {group_size}")
    if weight.dim() != 2 or weight.numel() == 0:
        raise ValueError(f"a weight matrix is needed, not a tensor of shape {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise ValueError(f"the weights are {weight.dtype} codes, not floats: quantized already?")
    wrong = weight.numel() - int(weight.float().isfinite().sum())
    if wrong:
        raise ValueError(f"{wrong:,} of {weight.numel():,} weights are NaN or infinite")
