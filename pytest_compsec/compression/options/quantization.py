"""Options of the methods under ``quantize``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pytest_compsec.compression.options.base import KeepingOptions, Options


class BitsAndBytesOptions(KeepingOptions):
    """``quantize: {method: bitsandbytes, bits: 8}`` or ``{..., bits: 4, type: nf4 | fp4}``."""

    method: Literal["bitsandbytes"]
    bits: Literal[4, 8]
    type: Literal["nf4", "fp4"] | None = None
    double_quant: bool = False

    @model_validator(mode="after")
    def _type_belongs_to_four_bits(self) -> BitsAndBytesOptions:
        if self.bits == 8 and self.type is not None:
            raise ValueError("'type' chooses between nf4 and fp4; with 'bits: 8' leave it out")
        if self.bits == 8 and self.double_quant:
            raise ValueError("'double_quant' exists for 'bits: 4' only")
        if self.bits == 4 and self.type is None:
            raise ValueError("'bits: 4' needs 'type: nf4' or 'type: fp4'")
        return self


class CastOptions(Options):
    """``quantize: {method: cast, dtype: bfloat16}``: every float weight in a smaller float type."""

    method: Literal["cast"]
    dtype: Literal["float16", "bfloat16"]


class RoundToNearestOptions(KeepingOptions):
    """``quantize: {method: round-to-nearest, bits: 4, group_size: 64, symmetric: false}`` or
    ``{..., levels: ternary | binary}``; one scale per output channel without ``group_size``."""

    method: Literal["round-to-nearest"]
    bits: Literal[2, 3, 4, 8] | None = None
    levels: Literal["ternary", "binary"] | None = None
    # In smaller groups the scales hold more bits than the weights, and hardly a weight changes.
    group_size: int | None = Field(default=None, ge=8)
    symmetric: bool = True

    @model_validator(mode="after")
    def _one_grid(self) -> RoundToNearestOptions:
        if self.bits is None and self.levels is None:
            raise ValueError("needs 'bits: 8', 4, 3 or 2, or 'levels: ternary' or 'binary'")
        if self.bits is not None and self.levels is not None:
            raise ValueError("takes 'bits' or 'levels', not both")
        if self.levels is not None and not self.symmetric:
            raise ValueError(f"'levels: {self.levels}' is symmetric; leave out 'symmetric: false'")
        return self


class HqqOptions(KeepingOptions):
    """``quantize: {method: hqq, bits: 4, group_size: 64}``: half-quadratic quantization; one scale
    and zero point per output channel without ``group_size``."""

    method: Literal["hqq"]
    bits: Literal[1, 2, 3, 4, 8]
    # hqq packs groups of a multiple of 8 only.
    group_size: int | None = Field(default=None, ge=8, multiple_of=8)


class TorchAoOptions(KeepingOptions):
    """``quantize: {method: torchao, bits: 4, group_size: 32, symmetric: false}``: torchao's
    weight-only integers; one scale per output channel without ``group_size``."""

    method: Literal["torchao"]
    bits: Literal[2, 3, 4, 8]
    group_size: int | None = Field(default=None, ge=8)
    symmetric: bool = True


class GptqOptions(KeepingOptions):
    """``quantize: {method: gptq, bits: 4, group_size: 128, symmetric: true, desc_act: false,
    calibration: NAME}``: GPTQ by GPTQModel; one scale per output channel with ``group_size: null``.
    ``desc_act``: inputs in the order of their activations, largest first (act-order)."""

    method: Literal["gptq"]
    bits: Literal[2, 3, 4, 8]
    # The sizes that GPTQModel has kernels for.
    group_size: Literal[16, 32, 64, 128, 256, 512, 1024] | None = 128
    symmetric: bool = True
    desc_act: bool = False
    calibration: str = Field(min_length=1)
