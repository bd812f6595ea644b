"""The registry of compression methods: a new method is one entry here, and one module that does it.

The schema of ``compsec.yaml``, the lock and the loader all read :data:`METHODS`. Nothing here
imports torch; the module named by ``implementation`` is imported when a variant is loaded. It
provides two functions::

    apply(module, options, device) -> module      # compress a dense module, placed on device
    expected(options) -> Expectation              # what the loaded module must then show
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Options(BaseModel):
    """Base of every method's options: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BitsAndBytesOptions(Options):
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


class RoundToNearestOptions(Options):
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


class MagnitudePruningOptions(Options):
    """``prune: {method: magnitude, sparsity: 0.5}``: global unstructured magnitude pruning."""

    method: Literal["magnitude"]
    sparsity: float = Field(gt=0.0, lt=1.0)


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to derive a variant. ``section`` is its key in the variant (``quantize``, ``prune``),
    ``tools`` the distributions whose versions the lock pins, ``extra`` the optional dependency."""

    section: Literal["quantize", "prune"]
    name: str
    options: type[Options]
    implementation: str
    tools: tuple[str, ...]
    extra: str | None = None


METHODS: tuple[Method, ...] = (
    Method(
        section="quantize",
        name="bitsandbytes",
        options=BitsAndBytesOptions,
        implementation="pytest_compsec.compression.bitsandbytes",
        tools=("bitsandbytes",),
        extra="bitsandbytes",
    ),
    Method(
        section="quantize",
        name="cast",
        options=CastOptions,
        implementation="pytest_compsec.compression.cast",
        tools=("pytest-compsec",),
    ),
    Method(
        section="quantize",
        name="round-to-nearest",
        options=RoundToNearestOptions,
        implementation="pytest_compsec.compression.round_to_nearest",
        tools=("pytest-compsec",),
    ),
    Method(
        section="prune",
        name="magnitude",
        options=MagnitudePruningOptions,
        implementation="pytest_compsec.compression.magnitude",
        tools=("pytest-compsec",),
    ),
)


def sections() -> tuple[str, ...]:
    """The keys by which a variant can be derived, in the order of registration."""
    return tuple(dict.fromkeys(method.section for method in METHODS))


def methods_of(section: str) -> dict[str, Method]:
    """The methods of one section by name."""
    return {method.name: method for method in METHODS if method.section == section}


def find(section: str, name: str) -> Method:
    """The registered method; KeyError when there is none."""
    return methods_of(section)[name]


def validated_options(section: str, values: dict[str, Any]) -> Options:
    """Validate a recipe's values with the options class of the method that they name."""
    return find(section, values["method"]).options.model_validate(values)
