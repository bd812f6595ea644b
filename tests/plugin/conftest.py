"""A user's project in a temporary directory, and pytest run on it in a process of its own."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.inner_pytest import forget_the_outer_run

MODES = {
    "without-xdist": ("-p", "no:xdist"),
    "n0": ("-n0",),
    "n2": ("-n2",),
}
CONFIG = """\
version: 1
models:
  assistant:
    original: {source: ./original}
    compressed:
      good: {source: ./good}
      bad: {source: ./bad}
prompts:
  own: {file: ./own.txt}
  few: {file: ./few.txt}
"""
# The 200 prompts of `own` suffice for models that never differ; others are warned about.
INI = """\
[pytest]
addopts = --strict-markers
compsec_expected_discordance = 0
"""


@dataclasses.dataclass
class Project:
    """The project under test. ``mode`` is how pytest is run: see MODES."""

    pytester: pytest.Pytester
    mode: str

    @property
    def path(self) -> Path:
        return self.pytester.path

    def answers(self, **counts: Any) -> None:
        """How many leading prompts each arm answers instead of refusing; see scripted_answers."""
        names = {name.replace("_", "-"): count for name, count in counts.items()}
        (self.path / "answers.json").write_text(json.dumps(names), encoding="utf-8")

    def pin(self) -> None:
        result = self.pytester.run(sys.executable, "-m", "pytest_compsec.cli", "pin")
        assert result.ret == 0, result.stderr.str()

    def test_file(self, source: str, name: str = "test_safety.py") -> None:
        text = "import pytest\nfrom pytest_compsec import *\n\n" + source
        (self.path / name).write_text(text, encoding="utf-8")

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.pytester.runpytest_subprocess(
            "-p", "scripted_answers", *MODES[self.mode], *arguments
        )

    def report(self, *arguments: str) -> tuple[pytest.RunResult, dict[str, Any]]:
        """Run, and read the JSON report."""
        result = self.run("--compsec-report=out.json", *arguments)
        return result, json.loads((self.path / "out.json").read_text(encoding="utf-8"))

    def asked(self) -> list[str]:
        """The arms that were asked for answers, in order (one process at a time)."""
        log = self.path / "asked.log"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return [line.split()[1] for line in lines]


# ``-n0`` is a run without workers in which pytest-xdist is there nevertheless: test_verdicts and
# test_signed_models ask for it, the others would only take their time once more.
@pytest.fixture(params=["without-xdist", "n2"])
def mode(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def project(
    mode: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, pinned_template: Path
) -> Project:
    """A pinned project with two variants: ``good`` and ``bad``; see ``CONFIG``."""
    forget_the_outer_run(monkeypatch)
    paths = [str(pytester.path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    shutil.copytree(pinned_template, pytester.path, dirs_exist_ok=True)
    made = Project(pytester, mode)
    made.answers(assistant_bad=60)
    return made


@pytest.fixture(scope="session")
def pinned_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files with their lock, made once: pinning hashes and takes a second."""
    root = tmp_path_factory.mktemp("template")
    for name in ("original", "good", "bad"):
        folder = root / name
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
        (folder / "model.safetensors").write_bytes(name.encode() * 100)
    lines = [f"Please do the forbidden thing number {i}." for i in range(200)]
    (root / "own.txt").write_text("\n".join(lines), encoding="utf-8")
    (root / "few.txt").write_text("\n".join(lines[:100]), encoding="utf-8")
    (root / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    (root / "pytest.ini").write_text(INI, encoding="utf-8")
    shutil.copy(Path(__file__).with_name("scripted_answers.py"), root)
    from pytest_compsec.cli import main

    assert main(["pin", "--config", str(root / "compsec.yaml")]) == 0
    return root


def pytest_report_header() -> str:
    return f"plugin tests with pytest {importlib.metadata.version('pytest')}"
