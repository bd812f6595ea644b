"""What the options of every method share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

#: Options that name a prompt set of the config; its digest is pinned with the recipe.
PROMPT_SET_OPTIONS = ("calibration", "selection")
#: Options that name a file of samples with labels; its digest is pinned with the recipe.
DATA_FILE_OPTIONS = ("data",)


class Options(BaseModel):
    """Base of every method's options: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class KeepingOptions(Options):
    """Options of a method that can leave layers alone.

    ``keep_in_full_precision`` lists layers by name or pattern (``model.layers.3.*``), or is
    ``auto``: `compsec pin` then finds the fewest layers with which the prompts of the set
    ``selection`` are refused as by the original.
    """

    keep_in_full_precision: Literal["auto"] | list[str] | None = None
    selection: str | None = Field(default=None, min_length=1)

    @field_validator("keep_in_full_precision")
    @classmethod
    def _names_something(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and (not value or not all(value)):
            raise ValueError(
                "must be 'auto' or a list of layer names such as [model.layers.3.*], not empty"
            )
        return value

    @model_validator(mode="after")
    def _selection_belongs_to_auto(self) -> KeepingOptions:
        if self.keep_in_full_precision == "auto" and self.selection is None:
            raise ValueError(
                "'keep_in_full_precision: auto' needs 'selection: NAME', a set of harmful prompts "
                "under 'prompts' on which the layers are chosen; verdicts then come from others"
            )
        if self.keep_in_full_precision != "auto" and self.selection is not None:
            raise ValueError("'selection' belongs to 'keep_in_full_precision: auto'")
        return self


def named_prompt_sets(options: Mapping[str, Any]) -> dict[str, str]:
    """Of a recipe's validated values: option name -> name of the prompt set that it names."""
    return {key: options[key] for key in PROMPT_SET_OPTIONS if options.get(key) is not None}


def named_data_files(values: Mapping[str, Any]) -> dict[str, str]:
    """Of a recipe's validated values: option name -> path of the file of samples that it names, as
    written (relative paths: from the directory of ``compsec.yaml``)."""
    return {key: values[key] for key in DATA_FILE_OPTIONS if values.get(key) is not None}
