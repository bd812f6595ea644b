"""Options of the methods under ``prune``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pytest_compsec.compression.options.base import KeepingOptions, Options


class MagnitudePruningOptions(KeepingOptions):
    """``prune: {method: magnitude, sparsity: 0.5}``: global unstructured magnitude pruning."""

    method: Literal["magnitude"]
    sparsity: float = Field(gt=0.0, lt=1.0)


class LayerMagnitudeOptions(KeepingOptions):
    """``prune: {method: layer-magnitude, sparsity: 0.5, per: layer | row}``: the smallest weights
    of each linear layer, or of each of its output channels."""

    method: Literal["layer-magnitude"]
    sparsity: float = Field(gt=0.0, lt=1.0)
    per: Literal["layer", "row"] = "layer"


class TaylorOptions(KeepingOptions):
    """``prune: {method: taylor, sparsity: 0.5, calibration: NAME, per: model | layer}``: those
    whose removal changes the loss on the texts least, of all weights or of each layer."""

    method: Literal["taylor"]
    sparsity: float = Field(gt=0.0, lt=1.0)
    calibration: str = Field(min_length=1)
    per: Literal["model", "layer"] = "model"


class TwoFourOptions(KeepingOptions):
    """``prune: {method: two-four}``: of every four consecutive inputs the two smallest weights."""

    method: Literal["two-four"]


class WandaOptions(KeepingOptions):
    """``prune: {method: wanda, sparsity: 0.5, calibration: NAME}``, or ``pattern: "2:4"`` in place
    of ``sparsity``: by weight times the norm of what the calibration texts send through it."""

    method: Literal["wanda"]
    sparsity: float | None = Field(default=None, gt=0.0, lt=1.0)
    pattern: Literal["2:4"] | None = None
    calibration: str = Field(min_length=1)

    @model_validator(mode="after")
    def _sparsity_or_pattern(self) -> WandaOptions:
        if (self.sparsity is None) == (self.pattern is None):
            raise ValueError("takes either 'sparsity: 0.5' or 'pattern: \"2:4\"'")
        return self


class HeadsOptions(Options):
    """``prune: {method: heads, share: 0.25}``: attention heads, removed; by magnitude, or by their
    effect on the loss with ``calibration: NAME``."""

    method: Literal["heads"]
    share: float = Field(gt=0.0, lt=1.0)
    calibration: str | None = Field(default=None, min_length=1)


class ChannelsOptions(Options):
    """``prune: {method: channels, share: 0.25}``: MLP channels, removed; by magnitude, or by their
    effect on the loss with ``calibration: NAME``."""

    method: Literal["channels"]
    share: float = Field(gt=0.0, lt=1.0)
    calibration: str | None = Field(default=None, min_length=1)


class LayersOptions(Options):
    """``prune: {method: layers, drop: [20, 21]}`` or ``{..., count: 2, calibration: NAME}``: whole
    decoder layers, removed; those listed (the first is 0), or those that do least to the texts."""

    method: Literal["layers"]
    drop: list[int] | None = None
    count: int | None = Field(default=None, ge=1)
    calibration: str | None = Field(default=None, min_length=1)

    @field_validator("drop")
    @classmethod
    def _lists_layers(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and (
            not value or len(set(value)) != len(value) or any(index < 0 for index in value)
        ):
            raise ValueError("must list different layers by number, the first one is 0")
        return value

    @model_validator(mode="after")
    def _drop_or_count(self) -> LayersOptions:
        if (self.drop is None) == (self.count is None):
            raise ValueError("takes either 'drop: [20, 21]' or 'count: 2' with 'calibration: NAME'")
        if (self.count is None) != (self.calibration is None):
            raise ValueError("'count' and 'calibration' belong together: the texts choose layers")
        return self


class FinePruningOptions(Options):
    """``prune: {method: fine-pruning, data: ./clean.safetensors, share: 0.3, epochs: 5}``: the
    channels of one layer that are least active on the clean samples become zero, then the model is
    trained on the samples. ``layer``: None means the last convolution, or the last hidden layer."""

    method: Literal["fine-pruning"]
    data: str = Field(min_length=1)
    share: float = Field(default=0.3, gt=0.0, lt=1.0)
    epochs: int = Field(default=5, ge=0, le=1000)
    learning_rate: float = Field(default=0.01, gt=0.0, allow_inf_nan=False)
    batch_size: int = Field(default=32, ge=1)
    layer: str | None = Field(default=None, min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
