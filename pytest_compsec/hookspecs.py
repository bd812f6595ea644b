"""The hooks that other plugins implement: own checks, judges, compression methods, reports.

Two are hooks of pytest (a plugin of the group ``pytest11`` implements them, or the ``conftest.py``
of the folder that pytest starts from):
:func:`pytest_compsec_register_checks` and :func:`pytest_compsec_report_finished`. Two are called in
``compsec pin`` and wherever a config is read, and so are functions of a module named in the entry
point group ``pytest_compsec``: :func:`pytest_compsec_register_judges` and
:func:`pytest_compsec_register_compression`. A package may name one module in both groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_compsec.compression.methods import Method
    from pytest_compsec.judges.base import JudgeKind
    from pytest_compsec.markers import CheckMarker
    from pytest_compsec.reports.facts import Report


def pytest_compsec_register_checks(  # type: ignore[empty-body]
    config: pytest.Config,
) -> CheckMarker[Any] | Sequence[CheckMarker[Any]]:
    """Markers of your own, called when pytest is configured. Each is a
    :class:`~pytest_compsec.markers.CheckMarker` under a name that is not taken; its measurement
    takes ``(pair, arguments, *, test="")`` and returns a
    :class:`~pytest_compsec.verdict.CheckResult`, which is held to what all results are held to: a
    test passes only with PRESERVED."""


def pytest_compsec_register_judges() -> JudgeKind | Sequence[JudgeKind]:  # type: ignore[empty-body]
    """Kinds of judges, chosen in ``compsec.yaml`` by ``judge: {NAME: {options}}``. The judge's
    name, version and digest are pinned in the lock. Of modules in the entry point group
    ``pytest_compsec``."""


def pytest_compsec_register_compression() -> Method | Sequence[Method]:  # type: ignore[empty-body]
    """Methods of compression, chosen by ``quantize: {method: NAME}`` or ``prune: {method: NAME}``.
    The recipe and the versions of its ``tools`` are pinned in the lock. Of modules in the entry
    point group ``pytest_compsec``."""


def pytest_compsec_report_finished(
    config: pytest.Config, report: Report, paths: tuple[Path, ...]
) -> None:
    """The run is over and its reports are written. Called once, on a serial run or the controller
    of pytest-xdist; ``paths`` are the files that ``--compsec-report`` wrote."""
