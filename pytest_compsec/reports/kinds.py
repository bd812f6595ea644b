"""The kinds of report files, by suffix: a new format is one entry here, and one module.

The module gives ``files(path, report)``: the files to write and their texts (a certificate is one
file for each artefact; everything else one file, ``path`` itself). It raises CompsecError where the
report cannot be made.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # read with the options of every project: it must stay light
    from pytest_compsec.reports.facts import Report


class Files(Protocol):
    """``files`` of a report module."""

    def __call__(self, path: Path, report: Report) -> Iterable[tuple[Path, str]]: ...


@dataclasses.dataclass(frozen=True)
class Kind:
    """``needs`` are modules that must be installed, by the extra ``extra``."""

    suffix: str
    title: str
    module: str
    needs: tuple[str, ...] = ()
    extra: str | None = None

    def missing(self) -> str | None:
        """How to install what is missing; None where nothing is. Imports nothing."""
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if not absent:
            return None
        return f'{self.title} needs {", ".join(absent)}: pip install "pytest-compsec[{self.extra}]"'


CERTIFICATE = ".intoto.json"
#: Longer suffixes first: ``.intoto.json`` is not ``.json``.
KINDS: tuple[Kind, ...] = (
    Kind(CERTIFICATE, "a certificate", "pytest_compsec.reports.certificate"),
    Kind(
        ".html",
        "an HTML report",
        "pytest_compsec.reports.html",
        needs=("matplotlib",),
        extra="report",
    ),
    Kind(".md", "a Markdown report", "pytest_compsec.reports.markdown"),
    Kind(".sarif", "a SARIF report", "pytest_compsec.reports.sarif"),
    Kind(".json", "a JSON report", "pytest_compsec.reports.json_report"),
)


def kind_of(path: Path) -> Kind | None:
    """The kind that a file's name asks for; None for a suffix that is none of ours."""
    for kind in KINDS:
        if path.name.endswith(kind.suffix) and path.name != kind.suffix:
            return kind
    return None


def suffixes() -> str:
    """For messages: ``.html, .md, ...``."""
    return ", ".join(kind.suffix for kind in KINDS)


def write(path: Path, report: Report) -> list[Path]:
    """Write one report, atomically, making its directory if need be; what was written.

    Raises OSError, CompsecError.
    """
    from pytest_compsec.atomic import write_atomically

    kind = kind_of(path)
    assert kind is not None  # refused with the options
    files: Files = importlib.import_module(kind.module).files
    made = list(files(path, report))
    for target, text in made:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, text)
    return [target for target, _ in made]


def remarks(path: Path, report: Report) -> list[str]:
    """What a kind has to say of the files it wrote, beside their names; most have nothing."""
    kind = kind_of(path)
    assert kind is not None  # refused with the options
    told = getattr(importlib.import_module(kind.module), "remarks", None)
    return [] if told is None else list(told(path, report))


def captions(path: Path, report: Report) -> dict[Path, str]:
    """What a kind has to say beside the name of a file that it wrote, by file; most have nothing.

    Raises CompsecError.
    """
    kind = kind_of(path)
    assert kind is not None  # refused with the options
    told = getattr(importlib.import_module(kind.module), "captions", None)
    return {} if told is None else dict(told(path, report))
