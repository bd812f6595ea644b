"""The marker ``layers_within`` from a test file to the report, on models that are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inner_pytest import forget_the_outer_run, run_with_report
from tests.unit.tiny_model import make_tiny_checkpoint

CONFIG = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      bf16: {quantize: {method: cast, dtype: bfloat16}}
      pruned90: {prune: {method: magnitude, sparsity: 0.9}}
"""
TESTS = """
import pytest
from pytest_compsec import *

@layers_within(max_relative_error=0.05)
def test_weights():
    pass

@pytest.mark.xfail(raises=Regressed)
@layers_within(variants="pruned90", top_k=1)
def test_expected(model_pair):
    pass

def test_by_hand(model_pair, compsec):
    result = compsec.layers_within(model_pair, max_relative_error=0.9)
    assert result.verdict is Verdict.PRESERVED
"""


@pytest.fixture
def tiny(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    from pytest_compsec.cli import main

    forget_the_outer_run(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make_tiny_checkpoint(pytester.path / "original")
    (pytester.path / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    (pytester.path / "test_tiny.py").write_text(TESTS, encoding="utf-8")
    ini = "[pytest]\naddopts = --strict-markers\n"
    (pytester.path / "pytest.ini").write_text(ini, encoding="utf-8")
    assert main(["pin", "--config", str(pytester.path / "compsec.yaml")]) == 0
    return pytester.path


def test_from_marker_to_report(tiny: Path, pytester: pytest.Pytester) -> None:
    result, found = run_with_report(pytester, "-p", "no:xdist", "--compsec-familywise")
    # The correction for many pairs leaves a certain verdict alone.
    result.assert_outcomes(passed=3, failed=1, xfailed=1)
    assert found["tiny-bf16", "layers_within"]["verdict"] == "PRESERVED"
    result.stdout.fnmatch_lines(
        [
            "*REGRESSED: tiny-pruned90: 14 of 20 weight tensors * differ from*",
            "*Next: Keep the layers named above in more bits*",
        ]
    )
    result.stdout.fnmatch_lines(["*tiny-bf16*weights up to 0.2 %, 0 beyond*20*PRESERVED"])


def test_a_typing_slip_is_a_usage_error(tiny: Path, pytester: pytest.Pytester) -> None:
    slip = "from pytest_compsec import *\n@layers_within(max_error=0.1)\ndef test_it(): pass\n"
    (tiny / "test_tiny.py").write_text(slip, encoding="utf-8")
    result = pytester.runpytest_subprocess("-p", "no:xdist")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*layers_within(): has no argument 'max_error'*"])
