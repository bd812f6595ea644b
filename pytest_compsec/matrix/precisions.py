"""The rows of the matrix: which precisions there are, and how each derives from the original."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_compsec.compression.methods import find
from pytest_compsec.errors import ConfigError

#: The first row, which all others are compared with.
REFERENCE = "fp32"


@dataclasses.dataclass(frozen=True)
class Precision:
    """One row: its name, what it is in words, and the ``quantize`` recipe that makes it."""

    name: str
    description: str
    quantize: Mapping[str, Any]

    @property
    def extra(self) -> str | None:
        """The optional dependency that it needs."""
        return find("quantize", str(self.quantize["method"])).extra


def _nearest(name: str, description: str, **values: Any) -> Precision:
    return Precision(name, description, {"method": "round-to-nearest", **values})


PRECISIONS: tuple[Precision, ...] = (
    Precision("fp16", "float16", {"method": "cast", "dtype": "float16"}),
    Precision("bf16", "bfloat16", {"method": "cast", "dtype": "bfloat16"}),
    Precision("int8", "LLM.int8() of bitsandbytes", {"method": "bitsandbytes", "bits": 8}),
    Precision(
        "int4-nf4", "NF4 of bitsandbytes", {"method": "bitsandbytes", "bits": 4, "type": "nf4"}
    ),
    _nearest("int4-rtn", "round to nearest, groups of 64", bits=4, group_size=64, symmetric=False),
    _nearest("int3", "round to nearest, groups of 64", bits=3, group_size=64, symmetric=False),
    _nearest("int2", "round to nearest, groups of 64", bits=2, group_size=64, symmetric=False),
    _nearest("binary", "1 bit, groups of 64", levels="binary", group_size=64),
)


def chosen_precisions(names: Sequence[str] | None) -> tuple[Precision, ...]:
    """The precisions of these names in the order of the table; all of them for None.

    Raises ConfigError for a name that there is none of.
    """
    if names is None:
        return PRECISIONS
    known = {precision.name: precision for precision in PRECISIONS}
    unknown = [name for name in names if name not in known and name != REFERENCE]
    if unknown:
        raise ConfigError(
            f"--precisions: there is no {', '.join(map(repr, unknown))}; there are "
            f"{', '.join(known)} ({REFERENCE} is always measured)"
        )
    return tuple(precision for precision in PRECISIONS if precision.name in names)
