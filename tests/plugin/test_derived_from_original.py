"""The marker ``derived_from_original`` from a config to its verdicts, on files that are loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_compsec.checks.derived_from_original import (
    derived_from_original_arguments,
    measure_derivation,
)
from pytest_compsec.errors import MeasurementError
from pytest_compsec.verdict import Verdict
from tests.inner_pytest import forget_the_outer_run, run_with_report
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint

LAYER, ROW = "model.layers.1.mlp.up_proj", 17
AWQ = Path(__file__).parents[1] / "data" / "awq4-g32"
CONFIG = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      honest: {source: ./honest}
      edited: {source: ./edited}
      derived: {quantize: {method: bitsandbytes, bits: 4, type: nf4}}
      awq: {source: ./awq}
      shorter: {source: ./shorter}
"""
TESTS = """
import pytest
from pytest_compsec import *

@derived_from_original()
def test_files():
    pass

# The body runs first: from its first answer on, bitsandbytes may hold 4 bits in another order.
@derived_from_original(variants=["honest", "edited"])
def test_after_answers(model_pair):
    model_pair.answers(["Name a river."])
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bitsandbytes")
    import torch
    from transformers import AutoModelForCausalLM

    from pytest_compsec.cli import main
    from pytest_compsec.models.exported import export_files
    from pytest_compsec.models.loading import load

    root = tmp_path_factory.mktemp("derived")
    original = make_tiny_checkpoint(root / "original")
    recipe = make_recipe("quantize", method="bitsandbytes", bits=4, type="nf4")
    export_files(load, make_arm(original, recipe=recipe), root / "honest")
    shutil.copytree(original, root / "source")
    model = AutoModelForCausalLM.from_pretrained(str(root / "source"))
    with torch.no_grad():
        model.get_parameter(f"{LAYER}.weight")[ROW] *= -1
    model.save_pretrained(root / "source")
    export_files(load, make_arm(root / "source", recipe=recipe), root / "edited")
    shutil.copytree(original, root / "shorter")
    model = AutoModelForCausalLM.from_pretrained(str(original))
    del model.model.layers[1]
    model.config.num_hidden_layers = 1
    model.config.layer_types = None
    model.save_pretrained(root / "shorter")
    shutil.copytree(AWQ, root / "awq")
    (root / "awq" / "reference.safetensors").unlink(missing_ok=True)
    (root / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    (root / "test_tiny.py").write_text(TESTS, encoding="utf-8")
    (root / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n", encoding="utf-8")
    assert main(["pin", "--config", str(root / "compsec.yaml")]) == 0
    return root


def test_from_config_to_verdict(
    project: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_the_outer_run(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(project, pytester.path, dirs_exist_ok=True)
    result, found = run_with_report(pytester, "-p", "no:xdist")
    assert result.ret == 1
    result.assert_outcomes(passed=2, failed=5)
    verdicts = {pair: item["verdict"] for (pair, _), item in found.items()}
    assert verdicts == {
        "tiny-honest": "PRESERVED",
        "tiny-edited": "REGRESSED",
        "tiny-derived": "NOT_MEASURED",
        "tiny-awq": "NOT_MEASURED",
        "tiny-shorter": "NOT_MEASURED",
    }
    # In both tests: before any answer, and after.
    failures = [line for line in result.outlines if f"{LAYER} row {ROW}: largest error" in line]
    # Under CI=true pytest's closing summary does not shorten them and shows each again.
    assert len(failures) in (2, 4)
    result.stdout.fnmatch_lines_random(
        [
            "*REGRESSED: tiny-edited: 1 row(s) in 1 matrices are further from the original's*",
            "*NOT_MEASURED: tiny-derived: it is derived here*",
            "*NOT_MEASURED: tiny-awq: what awq could have made*",
            "*NOT_MEASURED: tiny-shorter: the layers do not correspond*",
        ]
    )
    summary = found["tiny-honest", "derived_from_original"]["summary"]
    assert "15 matrices (14 quantized) and" in summary


def test_a_model_in_another_runtime_shows_no_weights() -> None:
    class Runtime:
        arm = SimpleNamespace(name="tiny-deployed", files=None, runtime="llama-cpp", served=None)

        @property
        def module(self) -> Any:
            raise MeasurementError("tiny-deployed runs in llama.cpp, which shows no layers")

    pair: Any = SimpleNamespace(
        id="tiny-deployed",
        original_arm=SimpleNamespace(runtime=None),
        compressed_arm=SimpleNamespace(recipe=None, runtime="llama-cpp"),
        original=Runtime(),
        compressed=Runtime(),
        recheck=lambda: None,
    )
    result = measure_derivation(pair, derived_from_original_arguments())
    assert result.verdict is Verdict.NOT_MEASURED
    assert "llama.cpp" in result.summary
    assert "without 'runtime'" in result.next_step
