"""Evaluation data from a pinned file: ``.safetensors`` for numbers, ``.jsonl`` for texts.

What a fixture gives is read by :mod:`pytest_compsec.classification.samples`, offered here too.
"""

from __future__ import annotations

import json
from pathlib import Path

from pytest_compsec.classification.data import EvaluationData
from pytest_compsec.classification.samples import as_evaluation_data
from pytest_compsec.errors import ConfigError

__all__ = ["as_evaluation_data", "read_evaluation_data"]


def read_evaluation_data(path: Path, source: str) -> EvaluationData:
    """The samples of a file: ``.safetensors`` with the tensors ``inputs`` and ``labels``, or
    ``.jsonl`` with ``{"text": ..., "label": ...}`` on every line. ``source`` is what messages and
    reports call it.

    ``pinned`` is True: who calls has verified the file's bytes. Raises ConfigError, with the line
    in a ``.jsonl``, for what cannot be read.
    """
    if path.suffix == ".safetensors":
        return _from_tensors(path, source)
    if path.suffix == ".jsonl":
        return _from_lines(path, source)
    raise ConfigError(
        f"{source}: evaluation data are a .safetensors file (tensors 'inputs' and 'labels') or a "
        '.jsonl file ({"text": ..., "label": ...} on each line), not '
        f"{path.suffix or path.name!r}"
    )


def _from_tensors(path: Path, source: str) -> EvaluationData:
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except Exception as error:  # the library has no error class of its own for a broken file
        raise ConfigError(
            f"{source}: not a readable safetensors file ({' '.join(str(error).split())[:200]})"
        ) from error
    if set(tensors) != {"inputs", "labels"}:
        raise ConfigError(
            f"{source}: the file holds {', '.join(sorted(tensors)) or 'nothing'}; evaluation data "
            "are the tensors 'inputs' and 'labels'"
        )
    return as_evaluation_data(tensors, source=source, pinned=True)


def _from_lines(path: Path, source: str) -> EvaluationData:
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: not readable as UTF-8 text ({error})") from error
    texts: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        text, label = _entry(line, f"{source}:{number}")
        texts.append(text)
        labels.append(label)
    return as_evaluation_data((texts, labels), source=source, pinned=True)


def _entry(line: str, where: str) -> tuple[str, int]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON: {error}") from error
    if not isinstance(entry, dict) or set(entry) != {"text", "label"}:
        shown = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise ConfigError(f"{where}: a line has just 'text' and 'label', this one {shown}")
    text, label = entry["text"], entry["label"]
    if not isinstance(text, str):
        raise ConfigError(f"{where}: 'text' is {type(text).__name__}, not a text")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise ConfigError(f"{where}: 'text' holds half a character (a lone surrogate)")
    if isinstance(label, bool) or not isinstance(label, int) or label < 0:
        raise ConfigError(f"{where}: 'label' is {label!r}, not a class index from 0")
    return text, label
