"""Options of the methods under ``prune``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pytest_compsec.compression.options.base import KeepingOptions


class MagnitudePruningOptions(KeepingOptions):
    """``prune: {method: magnitude, sparsity: 0.5}``: global unstructured magnitude pruning."""

    method: Literal["magnitude"]
    sparsity: float = Field(gt=0.0, lt=1.0)
