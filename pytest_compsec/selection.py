"""What on the command line, in the environment or in the ini may have left tests of a suite out.

A certificate must not say PASSED of a part, so this asks pytest for what it made of all of them:
addopts, ``PYTEST_ADDOPTS`` and ``@file`` arguments are in ``config.args`` like what was typed.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pytest_compsec.config.loading import CONFIG_NAME

#: Options of pytest that leave tests out, by their place in ``config.option``.
_SELECTING = {
    "keyword": "-k",
    "markexpr": "-m",
    "deselect": "--deselect",
    "ignore": "--ignore",
    "ignore_glob": "--ignore-glob",
    "lf": "--last-failed",
    "stepwise": "--stepwise",
    "stepwise_skip": "--stepwise-skip",
    "pyargs": "--pyargs",
}
#: Settings of the ini that decide what is collected; ``-o`` overrides them for one run.
_COLLECTING = {
    "addopts",
    "collect_imported_tests",
    "norecursedirs",
    "python_classes",
    "python_files",
    "python_functions",
    "testpaths",
}
#: What makes a file one of ours: its text names the package, its fixtures or markers of it.
_OURS = re.compile(r"compsec|model_pair|original_model|compressed_model|evaluation_data")


def selection(config: pytest.Config, suites: Iterable[Path]) -> tuple[str, ...]:
    """Each reason to think that tests of the ``suites`` (directories of a compsec.yaml) are
    missing, in words; a test file given by its name ends in ``.py``."""
    found = []
    for place, option in _SELECTING.items():
        value = getattr(config.option, place, None)
        if value:
            shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            found.append(option if value is True else f"{option} {shown}")
    for text in config.option.override_ini or ():
        if text.partition("=")[0].strip() in _COLLECTING:
            found.append(f"-o {text}")
    base = config.invocation_params.dir
    given = [str(argument) for argument in config.args]
    found += [one for one in given if "::" in one or (base / one).is_file()]
    places = [(base / one.partition("::")[0]).resolve() for one in given]
    for suite in dict.fromkeys(suites):
        found += _elsewhere(config, suite.resolve(), places)
    return tuple(dict.fromkeys(found))


def _elsewhere(config: pytest.Config, suite: Path, places: list[Path]) -> Iterator[str]:
    """Test files below ``suite`` that speak of this package and are, or lie in, none of
    ``places``."""
    if any(suite.is_relative_to(place) for place in places):
        return
    patterns = config.getini("python_files")
    for path in _files_below(suite, config.getini("norecursedirs")):
        if any(path.is_relative_to(place) for place in places):
            continue
        if path.suffix == ".py" and any(_matches(path, pattern) for pattern in patterns):
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError:
                text = "compsec"  # what cannot be read cannot be ruled out
            if _OURS.search(text):
                yield os.path.relpath(path, config.invocation_params.dir)


def _files_below(folder: Path, ignored: list[str]) -> Iterator[Path]:
    for directory, names, files in os.walk(folder):
        here = Path(directory)
        names[:] = sorted(
            name
            for name in names
            if not any(_matches(here / name, pattern) for pattern in ignored)
            and not (here / name / "pyvenv.cfg").exists()
            and not (here / name / CONFIG_NAME).exists()  # a suite of its own
            and name != "__pycache__"
        )
        yield from (here / name for name in sorted(files))


def _matches(path: Path, pattern: str) -> bool:
    # As pytest does: a pattern with a slash is of the whole path.
    text = path.as_posix() if "/" in pattern else path.name
    return fnmatch.fnmatch(text, f"*/{pattern}" if "/" in pattern else pattern)
