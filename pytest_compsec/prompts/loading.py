"""One door for any prompt file: a public benchmark if its columns say so, else the user's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .assemble import Duplicates
from .benchmarks import Select, benchmark_from_rows, recognise
from .files import prompts_from_rows
from .model import PromptSet
from .tables import input_error, read_rows


def load_prompts(
    path: str | os.PathLike[str],
    *,
    name: str,
    fields: Mapping[str, str] | None = None,
    select: Select | None = None,
    duplicates: Duplicates = "error",
) -> PromptSet:
    """The prompts of ``path`` as the set ``name``.

    With a field mapping the file is read as the mapping says
    (:func:`~pytest_compsec.prompts.load_file`); without one a file with the columns of a public
    benchmark is read as that (:func:`~pytest_compsec.prompts.load_benchmark`).

    Raises:
        ConfigError: see the two functions; also ``select`` for a file that is no benchmark's.
    """
    file = Path(path)
    rows = read_rows(file)
    label = str(file)
    if fields is None and recognise(rows[0].values) is not None:
        return benchmark_from_rows(
            rows, label=label, name=name, select=select, duplicates=duplicates
        )
    if select is not None:
        raise input_error(
            label,
            rows[0].line,
            f"select={select!r} is for benchmark files that mix safe and unsafe prompts (XSTest). "
            "Leave it out.",
        )
    return prompts_from_rows(rows, label=label, name=name, fields=fields, duplicates=duplicates)
