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


@dataclasses.dataclass(frozen=True)
class RoundedMatrix:
    """``below`` and ``above``: half the distance from each stored weight to the next value of its
    grid in either direction, shape (outputs, inputs) or one that broadcasts to it, float32."""

    below: torch.Tensor
    above: torch.Tensor
    rounding: Rounding


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
        half = (scales.float() / 127 / 2).reshape(-1, 1)
        return RoundedMatrix(half, half, "nearest")
    functional = import_library().functional
    state = weight.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = functional.dequantize_blockwise(absmax, state.state2) + state.offset
    packed = weight.data.reshape(-1).view(torch.uint8)
    codes = torch.stack((packed >> 4, packed & 15), dim=1).reshape(-1).long()
    elements = state.shape[0] * state.shape[1]
    codes = codes[:elements]
    below, above = _half_gaps(state.code.float().to(codes.device))
    scale = absmax.float().repeat_interleave(state.blocksize)[:elements]
    return RoundedMatrix(
        (below[codes] * scale).reshape(state.shape),
        (above[codes] * scale).reshape(state.shape),
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
