"""What checks of classifiers and backdoors need beside the arms, out of verified files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_compsec.errors import ConfigError
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


def python_module(code: Code) -> torch.nn.Module:
    """The untrained module that the code makes. Raises LoadError, IntegrityError."""
    from pytest_compsec.models.python_source.importing import make_module

    if code.files is None:
        return make_module(Path.cwd(), code.source, ())
    return make_module(code.files.directory, code.source, code_names(code.files))


def python_function(code: Code) -> Callable[..., Any]:
    """The function that the code names. Raises LoadError, IntegrityError."""
    from pytest_compsec.models.python_source.importing import import_function

    if code.files is None:
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
