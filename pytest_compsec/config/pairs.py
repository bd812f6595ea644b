"""The pairs of a config: an original and one of its compressed forms, by the id of its tests."""

from __future__ import annotations

import dataclasses
import re

from pytest_compsec.config.schema import Config

#: Names become part of test ids: nothing that pytest, a shell or xdist gives a meaning to.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclasses.dataclass(frozen=True)
class PairName:
    """``id`` is what test ids and reports show: ``assistant-int8``."""

    id: str
    model: str
    variant: str


def pair_id(model: str, variant: str) -> str:
    return f"{model}-{variant}"


def all_pairs(config: Config) -> tuple[PairName, ...]:
    """Every pair, in the order of the file."""
    return tuple(
        PairName(pair_id(model, variant), model, variant)
        for model, entry in config.models.items()
        for variant in entry.compressed
    )
