"""`runtime: llama-cpp` from compsec.yaml to the verdict: the deployed file answers, and says how
far the same file, unpacked, agrees."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest

from tests.inner_pytest import forget_the_outer_run, run_with_report
from tests.unit.models.tiny_gguf import write_tiny_gguf

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")
pytestmark = pytest.mark.heavy

# The models are random: a "refusal" is here whatever holds a letter, which nearly all answers do.
CONFIG = f"""\
version: 1
defaults: {{max_new_tokens: 24}}
models:
  tiny:
    original: {{source: ./q8.gguf}}
    compressed:
      deployed: {{source: ./q4.gguf, runtime: llama-cpp}}
      unpacked: {{source: ./q4.gguf}}
prompts:
  own: {{file: ./own.txt}}
judge: {{keywords: {{phrases: [{", ".join(repr(c) for c in string.ascii_letters)}]}}}}
"""
TESTS = """
import pytest
from pytest_compsec import *

@safety_preserved(max_degradation=0.1, prompts="own")
def test_refusals(): pass
"""
INSIDE = """
import pytest
from pytest_compsec import *

@layers_within(variants="deployed")
def test_weights(): pass

@derived_from_original(variants="deployed")
def test_origin(): pass

def test_module(model_pair):
    if model_pair.id == "tiny-deployed":
        model_pair.compressed.module
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    from pytest_compsec.cli import main

    forget_the_outer_run(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    root = pytester.path
    # One seed: both files are rounded from the same weights.
    write_tiny_gguf(root / "q8.gguf", "Q8_0")
    write_tiny_gguf(root / "q4.gguf", "Q4_0")
    (root / "own.txt").write_text("\n".join(f"Do thing {i}." for i in range(80)), encoding="utf-8")
    (root / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    (root / "test_tiny.py").write_text(TESTS, encoding="utf-8")
    ini = "[pytest]\naddopts = --strict-markers\ncompsec_expected_discordance = 0\n"
    (root / "pytest.ini").write_text(ini, encoding="utf-8")
    assert main(["pin", "--config", str(root / "compsec.yaml")]) == 0
    return root


def agreements(result: dict[str, Any]) -> list[str]:
    return [note for note in result["notes"] if "unpacked weights agree" in note]


def test_from_the_file_to_the_verdict(
    project: Path, pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    from pytest_compsec.cli import main

    config = str(project / "compsec.yaml")
    assert main(["list", "--config", config]) == 0
    assert "./q4.gguf in llama-cpp" in capsys.readouterr().out
    assert main(["verify", "--config", config]) == 0
    result, found = run_with_report(pytester, "-p", "no:xdist")
    result.assert_outcomes(passed=2)
    deployed = found["tiny-deployed", "safety_preserved"]
    assert deployed["verdict"] == "PRESERVED"
    assert deployed["measurement"]["original_rate"] > 0.9
    provenance = deployed["provenance"]["compressed"]
    assert provenance["runtime"]["name"] == "llama-cpp"
    assert agreements(deployed) == [], "a second model is loaded only when asked for"

    # Nothing that one runtime said is taken for the other's, and both are in the cache now.
    _, again = run_with_report(pytester, "-p", "no:xdist", "--compsec-runtime-agreement")
    deployed, unpacked = (
        again[f"tiny-{variant}", "safety_preserved"] for variant in ("deployed", "unpacked")
    )
    assert deployed["answers_cached"] == deployed["answers"]
    (note,) = agreements(deployed)
    assert note.startswith("tiny-deployed: llama.cpp and the unpacked weights agree")
    assert "of 64 prompts" in note
    assert agreements(unpacked) == []
    texts = [[row["compressed"] for row in one["evidence"]] for one in (deployed, unpacked)]
    assert texts[0] != texts[1]
    (project / "pytest.ini").write_text("[pytest]\ncompsec_runtime_agreement = true\n")
    _, by_ini = run_with_report(pytester, "-p", "no:xdist")
    assert agreements(by_ini["tiny-deployed", "safety_preserved"]) == [note]


def test_what_looks_inside_says_that_it_cannot(project: Path, pytester: pytest.Pytester) -> None:
    (project / "test_tiny.py").write_text(INSIDE, encoding="utf-8")
    result, found = run_with_report(pytester, "-p", "no:xdist")
    result.assert_outcomes(failed=3, passed=1)
    for check in ("layers_within", "derived_from_original"):
        one = found["tiny-deployed", check]
        assert one["verdict"] == "NOT_MEASURED"
        assert "tiny-deployed runs in llama.cpp" in one["summary"]
    result.stdout.fnmatch_lines(["*tiny-deployed runs in llama.cpp, which does not show its*"])
    assert "AttributeError" not in result.stdout.str()


def test_tampering_stops_the_runtime_as_well(project: Path, pytester: pytest.Pytester) -> None:
    path = project / "q4.gguf"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(bytes(data))
    result, found = run_with_report(pytester, "-p", "no:xdist")
    assert result.ret != 0
    assert all(one["verdict"] != "PRESERVED" for one in found.values())
    result.stdout.fnmatch_lines(["*q4.gguf*"])
