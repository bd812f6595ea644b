"""``--compsec-memory``: the peaks of real, tiny models, in the terminal and in the JSON report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.inner_pytest import forget_the_outer_run
from tests.unit.tiny_model import make_tiny_checkpoint

CONFIG = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      bf16: {quantize: {method: cast, dtype: bfloat16}}
defaults: {max_new_tokens: 4}
"""
TESTS = """
def test_asks(model_pair):
    assert model_pair.original.generate(["Hello"])
    assert model_pair.compressed.generate(["Hello"])
    assert model_pair.original.generate(["Hello again"])

import pytest
from pytest_compsec import layers_within
pytestmark = pytest.mark.layers_within(max_relative_error=0.05)
"""


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pytest_compsec.cli import main

    root = tmp_path_factory.mktemp("tiny")
    make_tiny_checkpoint(root / "original", seed=1)
    (root / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    (root / "test_tiny.py").write_text(TESTS, encoding="utf-8")
    (root / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    assert main(["pin", "--config", str(root / "compsec.yaml")]) == 0
    return root


@pytest.fixture
def project(
    pinned: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    forget_the_outer_run(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(pinned, pytester.path, dirs_exist_ok=True)
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> tuple[str, dict[str, Any]]:
    """What the terminal showed, and the JSON report."""
    result = project.runpytest_subprocess("--compsec-report=out.json", *arguments)
    assert result.ret == 0, result.stdout.str()
    return result.stdout.str(), json.loads((project.path / "out.json").read_text("utf-8"))


@pytest.mark.parametrize(("arguments", "worker"), [(("-p", "no:xdist"), "main"), (("-n1",), "gw0")])
def test_both_arms_are_reported_wherever_they_ran(
    project: pytest.Pytester, arguments: tuple[str, ...], worker: str
) -> None:
    shown, report = run(project, "--compsec-memory", *arguments)
    assert list(report["memory"]["processes"]) == [worker]
    arms = {arm["arm"]: arm for arm in report["memory"]["processes"][worker]["arms"]}
    assert set(arms) == {"tiny", "tiny-bf16"}
    assert arms["tiny-bf16"]["weights"] < 0.6 * arms["tiny"]["weights"]
    assert all(arm["resident"] > arm["before"] for arm in arms.values())
    # Both fit, so both were kept, and the report says that the peak is not one arm's.
    assert arms["tiny"]["others"] == arms["tiny-bf16"]["weights"]
    assert report["memory"]["one_arm_at_a_time"] is False
    where = "" if worker == "main" else " (gw0)"
    assert f"memory{where}: tiny-bf16 on cpu: peak " in shown
    assert "memory: more than one arm at a time" in shown


def test_with_one_model_at_a_time_the_peak_is_one_arm(project: pytest.Pytester) -> None:
    ini = "[pytest]\ncompsec_memory = true\ncompsec_one_model = true\n"
    (project.path / "pytest.ini").write_text(ini, encoding="utf-8")
    shown, report = run(project, "-p", "no:xdist")
    assert report["memory"]["one_arm_at_a_time"] is True
    assert "memory: one arm at a time: no other model's weights" in shown


def test_nothing_is_said_of_memory_unless_it_is_asked_for(project: pytest.Pytester) -> None:
    shown, report = run(project, "-p", "no:xdist")
    assert "memory" not in report
    assert "memory:" not in shown
