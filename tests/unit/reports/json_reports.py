"""Reports made by hand, and a result with every field filled that any check could fill."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from pathlib import Path
from typing import Any

from pytest_compsec import (
    findings,
    findings_backdoors,
    findings_estimates,
    findings_robustness,
    findings_scan,
)
from pytest_compsec.reports import kinds
from pytest_compsec.reports.facts import CollectedCheck, Report, RunFacts, SuiteFacts
from pytest_compsec.verdict import CheckResult

_ROOMS = (findings, findings_backdoors, findings_estimates, findings_robustness, findings_scan)
_NAMES = {name: kind for room in _ROOMS for name, kind in vars(room).items()}
#: Of a process, as ``--compsec-memory`` reports it.
MEMORY = {
    "main": {
        "how": "the kernel's mark",
        "arms": [
            {
                "arm": "m",
                "device": "cpu",
                "weights": 1,
                "others": 0,
                "before": 2,
                "resident": None,
                "allocated": None,
                "reserved": None,
                "rest": None,
            }
        ],
    }
}


def facts(**changes: Any) -> RunFacts:
    fields: dict[str, Any] = {
        "version": "0.1.0",
        "started": "2026-01-01T00:00:00+00:00",
        "created": "2026-01-01T00:00:09+00:00",
        "exit_status": 1,
        "interrupted": False,
        "command": ("--compsec-report=out.json",),
        "selection": (),
        "settings": {"full": False, "inconclusive": "fail"},
        "suites": (SuiteFacts("compsec.yaml", "a" * 64, "compsec.lock", "b" * 64),),
        "checks": (
            CollectedCheck(
                "test_x", "safety_preserved", "m-v", "compsec.yaml", "finished", "failed", {"a": 1}
            ),
        ),
    }
    return RunFacts(**{**fields, **changes})


def report(*results: CheckResult, memory: Any = None, **changes: Any) -> Report:
    """A report of these results; ``changes`` are of its run."""
    return Report(results, facts(**changes), Path(), memory)


def written(path: Path, *results: CheckResult, memory: Any = None, **changes: Any) -> Path:
    """The same as a JSON file."""
    kinds.write(path, report(*results, memory=memory, **changes))
    return path


def filled(kind: type[Any]) -> Any:
    """A record with nothing left out: each optional part there, one item in each list."""
    hints = typing.get_type_hints(kind, localns=_NAMES)
    return kind(**{field.name: _value(hints[field.name]) for field in dataclasses.fields(kind)})


def _value(hint: Any) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _value(next(part for part in inner if part is not type(None)))
    if origin is tuple:
        parts = inner[:1] if inner[1:] == (Ellipsis,) else inner
        return tuple(_value(part) for part in parts)
    if origin is typing.Literal:
        return inner[0]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return filled(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return next(iter(hint))
    simple: dict[Any, Any] = {bool: True, int: 3, float: 0.25, str: "PRESERVED"}
    return simple.get(hint, {})
