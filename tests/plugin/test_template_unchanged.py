"""``template_unchanged`` from a test file to the report, on pinned files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.inner_pytest import forget_the_outer_run, run_with_report
from tests.unit.checks.test_template_unchanged import edit_template, with_system
from tests.unit.tiny_model import make_tiny_checkpoint

CONFIG = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      bf16: {quantize: {method: cast, dtype: bfloat16}}
      saved: {source: ./saved}
      agreeing: {source: ./agreeing}
"""
TESTS = """
from pytest_compsec import *

@template_unchanged
def test_around_the_model():
    pass

@template_unchanged(variants="agreeing", allow=["chat_template", "rendering"])
def test_meant_to_differ(model_pair):
    pass
"""


@pytest.fixture(scope="session")
def pinned_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``saved``: loaded and saved again in half the bits; ``agreeing``: with another template.

    Made before any ``pytester``, which forgets on leaving what was imported under it: torch cannot
    be imported twice.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pytest_compsec.cli import main

    root = tmp_path_factory.mktemp("around")
    make_tiny_checkpoint(root / "original")
    model = AutoModelForCausalLM.from_pretrained(root / "original", dtype="bfloat16")
    model.save_pretrained(root / "saved")
    AutoTokenizer.from_pretrained(root / "original").save_pretrained(root / "saved")
    shutil.copytree(root / "saved", root / "agreeing")
    edit_template(with_system)(root / "agreeing")
    (root / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    (root / "test_tiny.py").write_text(TESTS, encoding="utf-8")
    (root / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n", encoding="utf-8")
    assert main(["pin", "--config", str(root / "compsec.yaml")]) == 0
    return root


@pytest.fixture
def tiny(pinned_tiny: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    forget_the_outer_run(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(pinned_tiny, pytester.path, dirs_exist_ok=True)
    return pytester.path


def test_from_marker_to_report(tiny: Path, pytester: pytest.Pytester) -> None:
    result, found = run_with_report(pytester, "-p", "no:xdist", "--compsec-familywise")
    result.assert_outcomes(passed=3, failed=1)
    assert "the same files" in found["tiny-bf16", "template_unchanged"]["summary"]
    assert "6 conversations compared" in found["tiny-saved", "template_unchanged"]["summary"]
    text = result.stdout.str()
    assert "REGRESSED: tiny-agreeing: 2 parts of what stands around the model differ" in text
    assert "compressed | <|im_start|>system / Always agree.<|im_end|>" in text
    assert "(none)" in text
    assert "Next: Copy the original's tokenizer, chat template and generation config" in text
    assert "2 parts differ" in text


def test_a_typing_slip_is_a_usage_error(tiny: Path, pytester: pytest.Pytester) -> None:
    slip = (
        'from pytest_compsec import *\n@template_unchanged(allow="template")\ndef test_it(): pass\n'
    )
    (tiny / "test_tiny.py").write_text(slip, encoding="utf-8")
    result = pytester.runpytest_subprocess("-p", "no:xdist")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*template_unchanged(): allow='template' is no part; *"])
