"""What checks of classifiers and backdoors need beside the arms, out of verified files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.models.arm import Code, StagedFiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import torch

    from pytest_compsec.attacks.backdoor import Backdoor
    from pytest_compsec.classification.data import EvaluationData
    from pytest_compsec.config.schema import ModelEntry


def only_file(files: StagedFiles) -> Path:
    """The one file of a source that is one file."""
    (path,) = files.directory.iterdir()
    return path


def code_names(files: StagedFiles) -> tuple[str, ...]:
    """Relative POSIX names of staged code."""
    found = (path for path in files.directory.rglob("*") if not path.is_dir())
    return tuple(sorted(path.relative_to(files.directory).as_posix() for path in found))


def pinned_data(files: StagedFiles, source: str) -> EvaluationData:
    """Samples with labels. Raises ConfigError when the file holds none, IntegrityError when it
    changed while it was read."""
    from pytest_compsec.classification.reading import read_evaluation_data

    data = read_evaluation_data(only_file(files), source)
    files.recheck()
    return dataclasses.replace(data, pinned=True)


def samples_in_both(data: EvaluationData, other: EvaluationData) -> int:
    """How many samples of ``data`` are, bit for bit, among those of ``other``."""
    known = set(_contents(other))
    return sum(content in known for content in _contents(data))


def _contents(data: EvaluationData) -> list[str | bytes]:
    if isinstance(data.inputs, tuple):
        return list(data.inputs)
    return [sample.tobytes() for sample in data.inputs.cpu().numpy()]


def python_module(code: Code) -> torch.nn.Module:
    """The untrained module that the code makes. Raises LoadError, IntegrityError."""
    from pytest_compsec.models.python_source.importing import make_module

    if code.files is None:
        _require_pinned_distribution(code)
        return make_module(Path.cwd(), code.source, ())
    return make_module(code.files.directory, code.source, code_names(code.files))


def wrong_distribution(source: str, tools: Mapping[str, str]) -> str | None:
    """Why the function does not come from the installed distribution that the lock pins."""
    from pytest_compsec.models.python_source.installed import distribution_of
    from pytest_compsec.models.python_source.text import parse_python_source

    try:
        found = distribution_of(parse_python_source(source).module)
    except ValueError as error:
        return str(error)
    if found is not None and found[0] in tools:
        return None  # Its version is compared with those of the other tools.
    return (
        f"{source}: comes from {found[0] if found is not None else 'no installed package'}, the "
        f"lock pins {', '.join(tools)}"
    )


def _require_pinned_distribution(code: Code) -> None:
    problem = wrong_distribution(code.source, code.tools)
    if problem is not None:
        raise IntegrityError(problem)


def python_function(code: Code) -> Callable[..., Any]:
    """The function that the code names. Raises LoadError, IntegrityError."""
    from pytest_compsec.models.python_source.importing import import_function

    if code.files is None:
        _require_pinned_distribution(code)
        return import_function(Path.cwd(), code.source, ())
    return import_function(code.files.directory, code.source, code_names(code.files))


def make_backdoor(
    entry: ModelEntry, pattern: StagedFiles | None, code: Code | None, where: str
) -> Backdoor:
    """The trigger and target of a model. Raises ConfigError for what makes no trigger."""
    from pytest_compsec.attacks.triggers.reading import read_pattern

    assert entry.backdoor is not None
    tensor = None
    if pattern is not None:
        tensor = read_pattern(only_file(pattern), entry.backdoor.files()[0])
        pattern.recheck()
    function = python_function(code) if code is not None else None
    try:
        return entry.backdoor.backdoor(entry.task, pattern=tensor, function=function)
    except ValueError as error:
        raise ConfigError(f"{where}: backdoor: {error}") from None
