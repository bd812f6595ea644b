"""Run pytest inside pytest, away from the environment of the outer run, and read its report."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

#: With CI and BUILD_NUMBER pytest repeats whole messages in its summary.
_OF_THE_OUTER_RUN = ("PYTEST_ADDOPTS", "GITHUB_STEP_SUMMARY", "CI", "BUILD_NUMBER")


def forget_the_outer_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what the outer pytest, xdist or CI left in the environment."""
    for name in list(os.environ):
        if name.startswith("PYTEST_XDIST") or name in _OF_THE_OUTER_RUN:
            monkeypatch.delenv(name)


def run_with_report(
    pytester: pytest.Pytester, *arguments: str
) -> tuple[pytest.RunResult, dict[tuple[str, str], Any]]:
    """The run, and its results by (pair, check)."""
    result = pytester.runpytest_subprocess("--compsec-report=out.json", *arguments)
    report = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))
    return result, {(item["pair"], item["check"]): item for item in report["results"]}
