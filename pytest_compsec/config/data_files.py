"""The section ``data`` of ``compsec.yaml``: files of the user's that checks other than the refusal
checks work on (questions, texts, documents, canaries, recorded traces)."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from pytest_compsec.config.base import Section
from pytest_compsec.config.source_text import is_file, path_of

#: The data that the package brings; see :mod:`pytest_compsec.data`.
BUILTIN_DATA = ("facts", "misconceptions", "prose", "secrets")
SUFFIXES = (
    *(".jsonl", ".json", ".csv", ".tsv", ".txt"),
    *(".npy", ".npz", ".safetensors", ".parquet"),
    # What a task of lm-evaluation-harness is made of.
    *(".yaml", ".yml", ".py"),
)


class DataEntry(Section):
    """One file, pinned by its bytes. What it must hold is said by the check that reads it."""

    file: str = Field(min_length=1)
    """The file, pinned by its bytes."""

    @field_validator("file")
    @classmethod
    def _exists(cls, value: str, info: ValidationInfo) -> str:
        root = info.context["root"] if info.context else None
        if not value.lower().endswith(SUFFIXES):
            raise ValueError(f"{value!r} must end in one of {', '.join(SUFFIXES)}")
        if root is not None and not is_file(path_of(value, root)):
            raise ValueError(f"{value!r} is no file (paths are relative to this file)")
        return value
