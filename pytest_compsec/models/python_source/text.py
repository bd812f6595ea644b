"""The text of a ``python:`` source, read without looking at any file."""

from __future__ import annotations

import dataclasses
import keyword
import re

PYTHON_PREFIX = "python:"


@dataclasses.dataclass(frozen=True)
class PythonName:
    """``module`` is dotted and absolute; ``factory`` is a plain name in it."""

    module: str
    factory: str

    @property
    def top(self) -> str:
        """The first part of the module's name."""
        return self.module.partition(".")[0]


def parse_python_source(source: str) -> PythonName:
    """Read ``python:package.module:factory``. Raises ValueError (plain words) for anything else."""
    if not source.startswith(PYTHON_PREFIX):
        raise ValueError(f"source {source!r} does not begin with {PYTHON_PREFIX!r}")
    module, colon, factory = source[len(PYTHON_PREFIX) :].partition(":")
    if not colon or not module or not factory:
        raise ValueError(
            f"source {source!r} must be python:MODULE:FACTORY, such as "
            "python:models.digits:build, where FACTORY is a function without arguments"
        )
    for part in (*module.split("."), factory):
        if not part.isascii() or not part.isidentifier() or keyword.iskeyword(part):
            raise ValueError(
                f"source {source!r}: {part!r} is no Python name. Give python:MODULE:FACTORY, such "
                "as python:models.digits:build (a module's name, no path and no '.py')"
            )
    return PythonName(module, factory)


#: The packages under which verified copies are imported begin so.
PRIVATE_PREFIX = "compsec_python_source_"
_PRIVATE = re.compile(rf"^{PRIVATE_PREFIX}[0-9a-f]+(_\d+)?\.")


def own_module_name(module: str) -> str:
    """The name of a module as its user knows it, wherever it was imported from."""
    return _PRIVATE.sub("", module)
