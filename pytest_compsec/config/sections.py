"""What the parts of ``compsec.yaml`` share: strictness, placement, and sources of model files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import ValidationInfo, field_validator, model_validator

from pytest_compsec.config.base import Section as Section
from pytest_compsec.config.endpoints import EndpointEntry
from pytest_compsec.config.signatures import SignatureEntry, check_signature
from pytest_compsec.config.source_text import (
    PACKAGE_PREFIX,
    PYTHON_PREFIX,
    SourceText,
    classify,
    is_file,
    package_path,
    path_of,
)

DTYPES = ("float32", "float16", "bfloat16", "fastest")
_DTYPE_SLIPS = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}
_DEVICE = re.compile(r"cpu|(cuda|xpu|mps)(:\d{1,3})?")


class Placement(Section):
    """What every arm may set: float type of the computation and device."""

    dtype: str | None = None
    """Float type of the computation: ``float32``, ``float16``, ``bfloat16`` or ``fastest`` (of
    this device); left out, the checkpoint's own."""
    device: str | None = None
    """Where it runs: ``cpu``, ``cuda``, ``cuda:0``; left out, ``cuda:0`` where there is one,
    else ``cpu``."""

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


def check_source(
    source: str, revision: str | None, moving: bool, adapter: str | None, info: ValidationInfo
) -> None:
    """Raise ValueError when source, revision and adapter do not fit together."""
    root: Path = info.context["root"] if info.context else Path.cwd()
    classify(source, revision, moving, root)
    if adapter is not None:
        check_adapter(adapter)


def check_adapter(adapter: str) -> None:
    """Raise ValueError when this cannot be an adapter's directory."""
    if adapter.startswith(PACKAGE_PREFIX):
        package_path(adapter)
    elif adapter.lower().endswith((".safetensors", ".gguf", ".bin")):
        raise ValueError(f"adapter {adapter!r} must be the adapter's directory, not one file of it")


def check_runtime(source: str, adapter: str | None, runtime: str | None) -> None:
    """Raise ValueError when this source cannot run there."""
    if runtime is None:
        return
    if not source.lower().endswith(".gguf"):
        raise ValueError(f"'runtime: {runtime}' runs .gguf files, and {source!r} is none")
    if adapter is not None:
        raise ValueError(f"'runtime: {runtime}' runs the file as it is: leave 'adapter' out")


def check_weights(
    source: str, weights: str | None, adapter: str | None, info: ValidationInfo
) -> None:
    """Raise ValueError when a source and its own weights file do not fit together."""
    if not source.startswith(PYTHON_PREFIX):
        if weights is not None:
            raise ValueError(
                "'weights' belongs to a 'source: python:module:function'; other sources hold their "
                "weights themselves"
            )
        return
    if weights is None:
        raise ValueError(
            f"{source!r} makes an untrained module: name its pinned file with "
            "'weights: ./model.safetensors'"
        )
    if adapter is not None:
        raise ValueError("an 'adapter' belongs to a language model, not to a python: source")
    check_file(weights, (".safetensors",), "weights", info)


def check_file(value: str, suffixes: tuple[str, ...], key: str, info: ValidationInfo) -> None:
    """Raise ValueError unless ``value`` is a file with one of ``suffixes``."""
    root: Path = info.context["root"] if info.context else Path.cwd()
    if not value.lower().endswith(suffixes):
        raise ValueError(f"{key} {value!r} must be a {' or '.join(suffixes)} file")
    if not is_file(path_of(value, root)):
        raise ValueError(f"{key} {value!r} is no file (paths are relative to this file)")


def check_endpoint(entry: Placement) -> None:
    """Raise ValueError when anything stands beside ``endpoint`` that says how to load files."""
    beside = sorted(entry.model_fields_set - {"endpoint"})
    if beside:
        raise ValueError(
            f"has 'endpoint' and {', '.join(map(repr, beside))}: a served model is whatever its "
            "server runs, so only 'endpoint' may say anything about it"
        )


class SourceEntry(Placement):
    """A model that exists as files: directory, ``.gguf``, ``pkg:package/path`` or hub id; or a
    Python function that makes the module (``python:module:function``) and its ``weights``; or one
    that a server answers for (``endpoint``), whose ``source`` is empty."""

    source: str = ""
    """Where the files are: a directory, a ``.gguf`` file, ``pkg:package/path``,
    ``python:module:function``, or a Hugging Face id."""
    weights: str | None = None
    """The ``.safetensors`` file that fills the module of a ``python:`` source."""
    revision: str | None = None
    """The 40-hex commit of a Hugging Face id."""
    allow_moving_revision: bool = False
    """Lets ``compsec pin`` resolve a branch or a tag, and record the commit in the lock."""
    adapter: str | None = None
    """Directory of a LoRA adapter on top of the source."""
    runtime: Literal["llama-cpp"] | None = None
    """Runs a ``.gguf`` file in llama.cpp as it is; left out, transformers dequantizes it."""
    endpoint: EndpointEntry | None = None
    """The server that answers, in place of files."""
    signature: SignatureEntry | None = None
    """By whom the files must be signed, checked before anything is opened."""

    @model_validator(mode="after")
    def _source_and_revision_fit(self, info: ValidationInfo) -> SourceEntry:
        if self.endpoint is not None:
            check_endpoint(self)
            return self
        if not self.source:
            raise ValueError(
                "names no model: give it 'source', or 'endpoint' where a server answers for it"
            )
        check_source(self.source, self.revision, self.allow_moving_revision, self.adapter, info)
        check_runtime(self.source, self.adapter, self.runtime)
        check_weights(self.source, self.weights, self.adapter, info)
        moving = self.allow_moving_revision
        check_signature(self.source, self.revision, moving, self.signature, info)
        return self

    @property
    def files_source(self) -> str:
        """What names the files with the weights: ``weights`` of a python: source, else itself."""
        return self.weights if self.weights is not None else self.source

    def classified(self, root: Path) -> SourceText:
        return classify(self.source, self.revision, self.allow_moving_revision, root)
