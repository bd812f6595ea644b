"""The grid that each weight of a quantized model was rounded to, from what is really stored.

A quantizer moves a weight to a value of a grid near it. How far it can honestly have moved is half
the distance to the next value: that is known from the codes and scales alone, without the original.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.localization.dense import linear_layers

if TYPE_CHECKING:
    from pytest_compsec.models.loaded import LoadedModel

#: How a quantizer chooses: the ``nearest`` value of a grid that spans the weights; the nearest of a
#: grid that was ``searched`` for and may clip them; or ``compensating``, where a weight also makes
#: up for the errors of others (GPTQ).
Rounding = Literal["nearest", "searched", "compensating"]


@dataclasses.dataclass(frozen=True, eq=False)
class RoundedMatrix:
    """``below`` and ``above``: half the distance from each stored weight to the next value of its
    grid in either direction; ``reach``: from the lowest to the highest value of its grid; float32,
    (outputs, inputs) or a shape that broadcasts to it. ``groups``: which weights share a grid: the
    group of each input, (inputs,), or how many weights in a row, across rows, make a group."""

    below: torch.Tensor
    above: torch.Tensor
    reach: torch.Tensor
    groups: torch.Tensor | int
    rounding: Rounding

    def believable(self, original: torch.Tensor, most: float) -> RoundedMatrix:
        """The same with the steps that weights like ``original`` (outputs, inputs) can have led to.

        Scales come from the file that is under suspicion: in a grid that is wide enough every
        weight is within half a step. No quantizer lets a grid reach much further than from minus to
        plus the largest magnitude of its group, so steps are cut to what ``most`` times that gives.
        """
        widest = 2 * most * self.largest_of_group(original)
        reach = self.reach.to(original.device)
        # Comparing with NaN is false: its steps stay NaN, and so beyond every limit.
        share = torch.where(reach > widest, widest / reach, 1.0)
        return dataclasses.replace(
            self,
            below=self.below.to(original.device) * share,
            above=self.above.to(original.device) * share,
        )

    def largest_of_group(self, original: torch.Tensor) -> torch.Tensor:
        """(outputs, inputs): of each weight, the largest magnitude of those in its group."""
        magnitudes = original.abs()
        if isinstance(self.groups, int):
            flat = magnitudes.flatten()
            blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % self.groups))
            largest = blocks.reshape(-1, self.groups).amax(1).repeat_interleave(self.groups)
            return largest[: flat.numel()].reshape(magnitudes.shape)
        groups = self.groups.to(magnitudes.device)
        found = torch.zeros(len(magnitudes), int(groups.max()) + 1, device=magnitudes.device)
        places = groups.expand_as(magnitudes)
        return found.scatter_reduce_(1, places, magnitudes, "amax")[:, groups]


def rounded_matrices(model: LoadedModel) -> dict[str, RoundedMatrix]:
    """By layer name, for every linear layer of ``model`` that is stored on a grid.

    Known are bitsandbytes, the AutoGPTQ format, and GGUF. Raises MeasurementError for a format
    whose grid is not known, naming it; LoadError when the files cannot be read again.
    """
    directory, entry = model.arm.files.directory, model.arm.files.entry
    if entry is not None:
        from pytest_compsec.derivation.gguf_grids import gguf_matrices

        return gguf_matrices(directory, entry)
    from pytest_compsec.models.packed.settings import packed_settings, quantization_of

    settings = packed_settings(directory)
    if settings is not None and settings.method == "gptq":
        from pytest_compsec.derivation.packed_grids import gptq_matrices

        return gptq_matrices(directory, settings, model.module)
    found = {
        name: _of_bitsandbytes(layer)
        for name, layer in linear_layers(model.module).items()
        if type(layer).__name__ in ("Linear4bit", "Linear8bitLt")
    }
    quantization = quantization_of(directory)
    if not found and quantization is not None:
        raise MeasurementError(
            f"what {quantization.method} could have made of an original is not known here: its "
            "grid can move (AWQ rescales columns) or is not read yet. Known: bitsandbytes, GPTQ "
            "and GGUF"
        )
    return found


def _of_bitsandbytes(layer: Any) -> RoundedMatrix:
    from pytest_compsec.compression.bitsandbytes import import_library

    weight = layer.weight
    if type(layer).__name__ == "Linear8bitLt":
        state = getattr(layer, "state", None)
        scales = state.SCB if state is not None and state.SCB is not None else weight.SCB
        scales = scales.float().reshape(-1, 1)
        half = scales / 127 / 2
        groups = torch.zeros(layer.in_features, dtype=torch.long)
        return RoundedMatrix(half, half, 2 * scales, groups, "nearest")
    functional = import_library().functional
    state = weight.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = functional.dequantize_blockwise(absmax, state.state2) + state.offset
    packed = weight.data.reshape(-1).view(torch.uint8)
    codes = torch.stack((packed >> 4, packed & 15), dim=1).reshape(-1).long()
    elements = state.shape[0] * state.shape[1]
    codes = codes[:elements]
    # The library's own table, with which it computes: the one in the file may hold anything.
    table = functional.get_4bit_type(state.quant_type, device="cpu").float().to(codes.device)
    below, above = _half_gaps(table)
    scale = absmax.float().repeat_interleave(state.blocksize)[:elements]
    return RoundedMatrix(
        (below[codes] * scale).reshape(state.shape),
        (above[codes] * scale).reshape(state.shape),
        ((table.max() - table.min()) * scale).reshape(state.shape),
        state.blocksize,
        # Scales that are rounded themselves leave some weights beyond their grid.
        "searched" if state.nested else "nearest",
    )


def _half_gaps(code: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each value of a codebook (in any order), half the way to the next lower and the next
    higher one; for the outermost the one that there is, since scales are rounded themselves."""
    values, places = torch.unique(code, return_inverse=True)
    gaps = values.diff() / 2
    below = torch.cat((gaps[:1], gaps))
    above = torch.cat((gaps, gaps[-1:]))
    return below[places], above[places]
