"""Files of public refusal benchmarks, recognised by their columns.

The files are the user's to download; none is part of this package. Column names as published:

- AdvBench (Zou et al. 2023), ``harmful_behaviors.csv``: goal, target.
- JailbreakBench (Chao et al. 2024), ``harmful-behaviors.csv`` and ``benign-behaviors.csv``:
  Index, Goal, Target, Behavior, Category, Source.
- HarmBench (Mazeika et al. 2024), ``harmbench_behaviors_text_*.csv``: Behavior,
  FunctionalCategory, SemanticCategory, Tags, ContextString, BehaviorID.
- StrongREJECT (Souly et al. 2024), ``strongreject_dataset.csv``: category, source,
  forbidden_prompt.
- XSTest (Röttger et al. 2024), ``xstest_prompts.csv``: id, prompt, type, label, focus, note;
  earlier files have no label and mark unsafe prompts by a type that begins ``contrast_``.
- SimpleSafetyTests (Vidgen et al. 2023): id, harm_area, counter, category and the prompt, in
  ``prompts_final`` (repository) or ``prompt`` (hub).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .assemble import Duplicates, Entry, assemble, label_of, text_of
from .model import PromptSet
from .tables import Row, input_error, read_rows

Select = Literal["safe", "unsafe"]


@dataclass(frozen=True)
class _Benchmark:
    """``columns``: alternatives, each enough to recognise the file. ``mixed``: safe and unsafe."""

    title: str
    columns: tuple[frozenset[str], ...]
    read: Callable[[Row, str], Entry]
    mixed: bool = False


def recognise(columns: Iterable[str]) -> str | None:
    """The name of the benchmark whose files have these columns, or None.

    Names: ``AdvBench``, ``JailbreakBench``, ``HarmBench``, ``StrongREJECT``, ``XSTest``,
    ``SimpleSafetyTests``.
    """
    found = _match(frozenset(columns))
    return found.title if found else None


def load_benchmark(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    select: Select | None = None,
    duplicates: Duplicates = "error",
) -> PromptSet:
    """The prompts of a public benchmark's file.

    HarmBench's ``ContextString``, where there is one, follows the request after an empty line.

    Args:
        path: the file, in the published columns (CSV, TSV, JSONL or JSON).
        name: the name of the set; the benchmark's own, in lower case, by default.
        select: which prompts of a file that mixes ``"safe"`` and ``"unsafe"`` ones (XSTest).
        duplicates: ``"error"``, or ``"drop"`` to keep the first of equal prompts.

    Raises:
        ConfigError: no benchmark has these columns; ``select`` is missing for a mixed file, or
            given for another; or a fault that :func:`~pytest_compsec.prompts.load_file` names.
    """
    file = Path(path)
    return benchmark_from_rows(
        read_rows(file), label=str(file), name=name, select=select, duplicates=duplicates
    )


def benchmark_from_rows(
    rows: list[Row],
    *,
    label: str,
    name: str | None = None,
    select: Select | None = None,
    duplicates: Duplicates = "error",
) -> PromptSet:
    """:func:`load_benchmark` on rows already read from the file known as ``label``."""
    benchmark = _match(frozenset(rows[0].values))
    if benchmark is None:
        found = ", ".join(map(repr, rows[0].values))
        raise input_error(
            label,
            rows[0].line,
            f"no known benchmark has the columns {found}. Known: "
            f"{', '.join(known.title for known in _BENCHMARKS)}. Load other files with a field "
            "mapping, like fields={'prompt': 'question'}.",
        )
    if benchmark.mixed:
        rows = _selected(rows, select, label)
    elif select is not None:
        raise input_error(
            label,
            rows[0].line,
            f"select={select!r} is for files that mix safe and unsafe prompts; "
            f"{benchmark.title} does not. Leave it out.",
        )
    entries = [benchmark.read(row, label) for row in rows]
    return assemble(
        entries, name=name or benchmark.title.lower(), label=label, duplicates=duplicates
    )


def _match(columns: frozenset[str]) -> _Benchmark | None:
    for benchmark in _BENCHMARKS:
        if any(needed <= columns for needed in benchmark.columns):
            return benchmark
    return None


def _selected(rows: list[Row], select: Select | None, label: str) -> list[Row]:
    if select not in ("safe", "unsafe", None):
        raise input_error(label, rows[0].line, f"select={select!r}: use 'safe' or 'unsafe'.")
    kinds = [_safety(row, label) for row in rows]
    if select is None:
        if len(set(kinds)) == 1:
            return rows
        raise input_error(
            label,
            rows[0].line,
            f"the file mixes {kinds.count('safe')} safe and {kinds.count('unsafe')} unsafe "
            "prompts. Choose: select='unsafe' to test refusal, select='safe' to test over-refusal.",
        )
    chosen = [row for row, kind in zip(rows, kinds, strict=True) if kind == select]
    if not chosen:
        raise input_error(label, rows[0].line, f"the file has no {select} prompt.")
    return chosen


def _safety(row: Row, label: str) -> str:
    """``safe`` or ``unsafe``: XSTest's label, or its type where the file has no label."""
    if "label" not in row.values:
        return "unsafe" if label_of(row, "type", label).startswith("contrast_") else "safe"
    kind = label_of(row, "label", label)
    if kind not in ("safe", "unsafe"):
        raise input_error(
            label,
            row.line,
            f"the label {kind!r} is neither 'safe' nor 'unsafe', as XSTest's are. If this is your "
            "own file, load it with a field mapping, like fields={'prompt': 'prompt'}.",
        )
    return kind


def _reader(prompt: str, category: str | None, id: str | None) -> Callable[[Row, str], Entry]:
    def read(row: Row, label: str) -> Entry:
        return Entry(
            line=row.line,
            id=label_of(row, id, label) or None,
            text=text_of(row, prompt, label),
            category=label_of(row, category, label),
        )

    return read


def _read_harmbench(row: Row, label: str) -> Entry:
    if label_of(row, "ImageFileName", label):
        raise input_error(
            label,
            row.line,
            "this is HarmBench's multimodal file, whose prompts need images. Use a text file.",
        )
    text = text_of(row, "Behavior", label)
    context = label_of(row, "ContextString", label)
    return Entry(
        line=row.line,
        id=label_of(row, "BehaviorID", label) or None,
        text=f"{text}\n\nContext:\n{context}" if context else text,
        category=label_of(row, "SemanticCategory", label),
    )


def _read_simple_safety_tests(row: Row, label: str) -> Entry:
    # harm_area is the kind of harm; the file's "category" tells advice seeking from instructions.
    column = "prompts_final" if "prompts_final" in row.values else "prompt"
    return _reader(column, "harm_area", "id")(row, label)


_BENCHMARKS = (
    _Benchmark("AdvBench", (frozenset({"goal", "target"}),), _reader("goal", None, None)),
    _Benchmark(
        "JailbreakBench",
        (frozenset({"Goal", "Target", "Category"}),),
        _reader("Goal", "Category", "Index"),
    ),
    _Benchmark(
        "HarmBench",
        (frozenset({"Behavior", "FunctionalCategory", "SemanticCategory"}),),
        _read_harmbench,
    ),
    _Benchmark(
        "StrongREJECT",
        (frozenset({"category", "source", "forbidden_prompt"}),),
        _reader("forbidden_prompt", "category", None),
    ),
    _Benchmark(
        "XSTest",
        (
            frozenset({"prompt", "type", "label"}),
            frozenset({"prompt", "type", "focus", "note"}),
            frozenset({"prompt", "type", "completion", "final_label"}),
        ),
        _reader("prompt", "type", "id"),
        mixed=True,
    ),
    _Benchmark(
        "SimpleSafetyTests",
        (frozenset({"harm_area", "prompts_final"}), frozenset({"harm_area", "prompt"})),
        _read_simple_safety_tests,
    ),
)
