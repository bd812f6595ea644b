"""The marker ``lm_eval_preserved`` from a test file to the report, with the harness itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.inner_pytest import forget_the_outer_run, run_with_report
from tests.unit.checks.harness_project import make_project, pin

TESTS = """
import pytest
from pytest_compsec import *

@lm_eval_preserved(tasks="manners", include_path="tasks")
def test_manners():
    pass

@pytest.mark.xfail(raises=NotMeasured)
@lm_eval_preserved(tasks="manners", include_path="tasks", metric="accuracy", variants="bf16")
def test_no_such_metric(model_pair):
    pass

def test_by_hand(model_pair, compsec):
    result = compsec.lm_eval_preserved(model_pair, tasks="manners", include_path="tasks", limit=5)
    assert result.verdict in (Verdict.INCONCLUSIVE, Verdict.REGRESSED)
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pinned project, made before pytester looks at which modules are imported."""
    root = make_project(tmp_path_factory.mktemp("template"), trained=False)
    pin(root)
    return root


@pytest.fixture
def project(template: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    forget_the_outer_run(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(template, pytester.path, dirs_exist_ok=True)
    (pytester.path / "test_tasks.py").write_text(TESTS, encoding="utf-8")
    ini = "[pytest]\naddopts = --strict-markers\n"
    (pytester.path / "pytest.ini").write_text(ini, encoding="utf-8")
    return pytester.path


@pytest.mark.heavy
def test_from_marker_to_report(project: Path, pytester: pytest.Pytester) -> None:
    result, _ = run_with_report(pytester, "-p", "no:xdist")
    result.assert_outcomes(passed=3, failed=1, xfailed=1)
    report = json.loads((project / "out.json").read_text(encoding="utf-8"))
    found = {one["pair"]: one for one in report["results"] if "test_manners" in one["test"]}
    assert {pair: one["verdict"] for pair, one in found.items()} == {
        "tiny-bf16": "PRESERVED",
        "tiny-pruned90": "REGRESSED",
    }
    assert found["tiny-bf16"]["provenance"]["lm_eval"]["versions"]["lm_eval"]
    result.stdout.fnmatch_lines(
        [
            "*REGRESSED: tiny-pruned90: manners acc 100 % -> *(200 documents)*",
            "*manners acc, document by document: * worse, *",
            "*OWASP LLM09*",
        ]
    )
    # None of the harness's own chatter, and none of its tables.
    assert "Building contexts" not in result.stdout.str()
    assert "stderr" not in result.stdout.str()


def test_a_marker_without_tasks_is_a_usage_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_the_outer_run(monkeypatch)
    text = "version: 1\nmodels: {m: {original: {source: ./m}, compressed: {v: {source: ./v}}}}\n"
    (pytester.path / "compsec.yaml").write_text(text, encoding="utf-8")
    slip = "from pytest_compsec import *\n@lm_eval_preserved\ndef test_it(): pass\n"
    (pytester.path / "test_slip.py").write_text(slip, encoding="utf-8")
    result = pytester.runpytest_subprocess("-p", "no:xdist")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*lm_eval_preserved(): tasks=() must name one task*"])
