"""The schema of ``compsec.yaml``. Every model refuses unknown keys and silent conversions.

A variant is another source, or one derivation of its original; the derivations come from
:data:`pytest_compsec.compression.methods.METHODS`, so a new method needs no change here.
Validation needs the context ``{"root": Path}``, the directory that holds the file.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from pytest_compsec.compression.methods import Options, methods_of, sections
from pytest_compsec.config.source_text import PACKAGE_PREFIX, SourceText, classify, package_path

DTYPES = ("float32", "float16", "bfloat16", "fastest")
BUILTIN_PROMPTS = ("benign", "harmful")
_DTYPE_SLIPS = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}
_DEVICE = re.compile(r"cpu|(cuda|xpu|mps)(:\d{1,3})?")


class Section(BaseModel):
    """Base of every part of the file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Placement(Section):
    """What every arm may set: float type of the computation and device."""

    dtype: str | None = None
    device: str | None = None

    @field_validator("dtype")
    @classmethod
    def _dtype_is_known(cls, value: str | None) -> str | None:
        if value is not None and value not in DTYPES:
            hint = f"; did you mean {_DTYPE_SLIPS[value]!r}?" if value in _DTYPE_SLIPS else ""
            raise ValueError(f"{value!r} is not one of {', '.join(DTYPES)}{hint}")
        return value

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, value: str | None) -> str | None:
        if value is not None and _DEVICE.fullmatch(value) is None:
            raise ValueError(f"{value!r} is no device: use cpu, cuda or cuda:0, or leave it out")
        return value


def _checked_source(
    source: str, revision: str | None, moving: bool, adapter: str | None, info: ValidationInfo
) -> None:
    root: Path = info.context["root"] if info.context else Path.cwd()
    classify(source, revision, moving, root)
    if adapter is not None and adapter.startswith(PACKAGE_PREFIX):
        package_path(adapter)
    elif adapter is not None and adapter.lower().endswith((".safetensors", ".gguf", ".bin")):
        raise ValueError(f"adapter {adapter!r} must be the adapter's directory, not one file of it")


class SourceEntry(Placement):
    """A model that exists as files: directory, ``.gguf``, ``pkg:package/path`` or hub id."""

    source: str
    revision: str | None = None
    allow_moving_revision: bool = False
    adapter: str | None = None

    @model_validator(mode="after")
    def _source_and_revision_fit(self, info: ValidationInfo) -> SourceEntry:
        _checked_source(self.source, self.revision, self.allow_moving_revision, self.adapter, info)
        return self

    def classified(self, root: Path) -> SourceText:
        return classify(self.source, self.revision, self.allow_moving_revision, root)


class VariantFields(Placement):
    """A compressed form: another source, or exactly one derivation of the original."""

    source: str | None = None
    revision: str | None = None
    allow_moving_revision: bool = False
    adapter: str | None = None

    @model_validator(mode="after")
    def _one_origin(self, info: ValidationInfo) -> VariantFields:
        choices = " or ".join(repr(section) for section in sections())
        derivations = [name for name in sections() if getattr(self, name) is not None]
        if self.source is None and not derivations:
            raise ValueError(f"names no source: give it 'source', or derive it with {choices}")
        if len(derivations) + (self.source is not None) > 1:
            named = ["source"] * (self.source is not None) + derivations
            raise ValueError(f"has {' and '.join(map(repr, named))}: exactly one of them decides")
        if self.source is not None:
            _checked_source(
                self.source, self.revision, self.allow_moving_revision, self.adapter, info
            )
        elif self.revision is not None or self.allow_moving_revision or self.adapter is not None:
            raise ValueError(
                "'revision' and 'adapter' belong to a variant with its own 'source'; "
                "a derived variant takes the original's"
            )
        return self

    def as_source(self) -> SourceEntry | None:
        """The variant's own source, or None for a derived variant."""
        if self.source is None:
            return None
        # Validated already, with the root in its context; validating again would lack the root.
        return SourceEntry.model_construct(
            source=self.source,
            revision=self.revision,
            allow_moving_revision=self.allow_moving_revision,
            adapter=self.adapter,
            dtype=self.dtype,
            device=self.device,
        )

    def derivation(self) -> tuple[str, Options] | None:
        """``(section, options)`` of a derived variant, or None for one with its own source."""
        for section in sections():
            options = getattr(self, section)
            if options is not None:
                assert isinstance(options, Options)
                return section, options
        return None


def _derivation_type(section: str) -> Any:
    options: list[Any] = [method.options for method in methods_of(section).values()]
    union = functools.reduce(operator.or_, options)
    if len(options) > 1:
        union = Annotated[union, Field(discriminator="method")]
    return union | None if len(options) == 1 else Annotated[union, ...] | None


if TYPE_CHECKING:
    VariantEntry = VariantFields
else:
    VariantEntry = create_model(
        "VariantEntry",
        __base__=VariantFields,
        **{section: (_derivation_type(section), None) for section in sections()},
    )


class ModelEntry(Placement):
    """One original and its compressed forms, which share system prompt and template arguments."""

    original: SourceEntry
    compressed: dict[str, VariantEntry]
    system: str | None = None
    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("compressed")
    @classmethod
    def _has_a_variant(cls, value: dict[str, VariantEntry]) -> dict[str, VariantEntry]:
        if not value:
            raise ValueError("holds no variant: name at least one compressed form")
        return value

    @field_validator("chat_template_kwargs")
    @classmethod
    def _finite(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if not _is_finite(value):
            raise ValueError("holds a number that is not finite")
        return value


class PromptEntry(Section):
    """A user's own prompt set: a JSONL, CSV or text file, its columns mapped by ``fields``."""

    file: str = Field(min_length=1)
    fields: dict[str, str] = Field(default_factory=dict)
    select: Literal["safe", "unsafe"] | None = None

    @field_validator("file")
    @classmethod
    def _exists(cls, value: str, info: ValidationInfo) -> str:
        root: Path = info.context["root"] if info.context else Path.cwd()
        if not (root / Path(value).expanduser()).is_file():
            raise ValueError(f"{value!r} is no file (paths are relative to this file)")
        return value


class Defaults(Section):
    """Settings of every check that its marker does not set."""

    max_new_tokens: int = Field(default=64, ge=1, le=8192)
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    batch_size: int | None = Field(default=None, ge=1, le=65536)


class Config(Section):
    """All of ``compsec.yaml``."""

    version: Literal[1]
    models: dict[str, ModelEntry]
    prompts: dict[str, PromptEntry] = Field(default_factory=dict)
    defaults: Defaults = Field(default_factory=Defaults)

    @field_validator("models")
    @classmethod
    def _has_a_model(cls, value: dict[str, ModelEntry]) -> dict[str, ModelEntry]:
        if not value:
            raise ValueError("holds no model")
        return value


def _is_finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(_is_finite(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_finite(item) for item in value)
    return True


def known_keys(path: tuple[str | int, ...]) -> tuple[str, ...]:
    """The keys that the file allows at a path, for suggestions; empty when any name is allowed."""
    model: type[BaseModel]
    if path == ():
        model = Config
    elif path == ("defaults",):
        model = Defaults
    elif path[0] == "prompts" and len(path) == 2:
        model = PromptEntry
    elif path[0] == "models" and len(path) == 2:
        model = ModelEntry
    elif path[0] == "models" and len(path) == 3:
        model = SourceEntry
    elif path[0] == "models" and len(path) == 4 and path[2] == "compressed":
        model = VariantEntry
    elif path[0] == "models" and len(path) in (5, 6) and path[2] == "compressed":
        methods = methods_of(str(path[4]))
        name = str(path[5]) if len(path) == 6 else next(iter(methods), "")
        if name not in methods:
            return ()
        model = methods[name].options
    else:
        return ()
    return tuple(model.model_fields)
