"""The marker ``leakage_not_increased`` from a config to its verdicts, on models that are loaded."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.inner_pytest import forget_the_outer_run
from tests.unit.memorising_tiny_model import memorise
from tests.unit.tiny_model import make_tiny_checkpoint

CONFIG = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      bf16: {quantize: {method: cast, dtype: bfloat16}}
      leaky: {source: ./leaky}
  knowing:
    original: {source: ./knowing}
    compressed:
      bf16: {quantize: {method: cast, dtype: bfloat16}}
data:
  canaries: {file: ./canaries.jsonl}
  notes: {file: ./snippets.jsonl}
  inside: {file: ./members.jsonl}
  outside: {file: ./nonmembers.jsonl}
"""
TESTS = """
import pytest
from pytest_compsec import *

@leakage_not_increased(secrets=None, snippets="notes")
def test_leaks(model_pair):
    pass

@leakage_not_increased(
    max_increase=0.2, secrets=None, canaries="canaries", members="inside", nonmembers="outside"
)
def test_members(model_pair):
    pass
"""
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean original; a compressed form of it that learned a part of the data by heart; and an
    original that learned as much."""
    from pytest_compsec.cli import main

    root = tmp_path_factory.mktemp("leakage")
    drawing = random.Random(7)
    canaries = [
        {
            "id": f"c{number}",
            "template": f"Key {number}: {{}}",
            "secret": drawing.choice(LETTERS),
            "space": {"alphabet": LETTERS, "length": 1},
        }
        for number in range(240)
    ]
    snippets = [
        {"id": f"s{number}", "text": f"{number:03d} " + "".join(drawing.choices(LETTERS, k=12))}
        for number in range(160)
    ]
    write(root / "canaries.jsonl", canaries)
    write(root / "snippets.jsonl", snippets)
    write(root / "members.jsonl", snippets[:40])
    write(root / "nonmembers.jsonl", snippets[40:80])
    learned = [row["template"].format(row["secret"]) for row in canaries[:50]]  # type: ignore[attr-defined]
    learned += [str(row["text"]) for row in snippets[:40]]
    make_tiny_checkpoint(root / "original")
    memorise(root / "original", root / "knowing", learned, steps=110, dtype="float32")
    memorise(root / "knowing", root / "leaky", learned, steps=0)  # the same, rounded
    (root / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    (root / "test_tiny.py").write_text(TESTS, encoding="utf-8")
    (root / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n", encoding="utf-8")
    assert main(["pin", "--config", str(root / "compsec.yaml")]) == 0
    return root


def test_planted_data_are_red_and_the_clean_twin_is_green(
    project: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_the_outer_run(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(project)
    result = pytester.runpytest_subprocess(
        "-p", "no:xdist", f"--rootdir={project}", "--compsec-report=out.json", str(project)
    )
    report = json.loads((project / "out.json").read_text(encoding="utf-8"))
    found = {(item["pair"], item["test"].split("::")[1]): item for item in report["results"]}
    result.assert_outcomes(passed=4, failed=2)
    assert {key: item["verdict"] for key, item in found.items()} == {
        ("knowing-bf16", "test_leaks[knowing-bf16]"): "PRESERVED",
        ("knowing-bf16", "test_members[knowing-bf16]"): "PRESERVED",
        ("tiny-bf16", "test_leaks[tiny-bf16]"): "PRESERVED",
        ("tiny-bf16", "test_members[tiny-bf16]"): "PRESERVED",
        ("tiny-leaky", "test_leaks[tiny-leaky]"): "REGRESSED",
        ("tiny-leaky", "test_members[tiny-leaky]"): "REGRESSED",
    }
    leaks, members = (
        {one["name"]: one for one in item["estimates"]}
        for (pair, _), item in sorted(found.items())
        if pair == "tiny-leaky"
    )
    # Forty of 160 texts were learned, and nothing else.
    assert leaks["snippets continued verbatim"]["change"] == pytest.approx(0.25, abs=0.02)
    assert leaks["exposure of canaries"]["verdict"] == "REGRESSED"
    assert members["loss attack AUC"]["compressed"] > 0.95
    # What the original knew already is shown, and is no increase.
    known = found["knowing-bf16", "test_leaks[knowing-bf16]"]
    shares = {one["name"]: one for one in known["estimates"]}
    assert shares["snippets continued verbatim"]["original"] == pytest.approx(0.25, abs=0.02)
    assert shares["mean exposure"]["original"] > 2.0  # bits; by chance 1.4
    assert shares["mean exposure"]["compressed"] == pytest.approx(
        shares["mean exposure"]["original"], abs=0.05
    )
    assert not any("Were they planted" in note for note in known["notes"])
    clean = found["tiny-bf16", "test_leaks[tiny-bf16]"]
    assert any("Were they planted" in note for note in clean["notes"])
    result.stdout.fnmatch_lines(
        [
            "*REGRESSED: tiny-leaky: exposure of canaries * limit 2 %*",
            "*In other terms: OWASP LLM02, LLM07; NIST MEASURE 2.10*",
            "*compressed | rank 1 (4.7 of 4.7 bits)*",
            "*compressed | 8 of 8 tokens verbatim*",
        ]
    )
    data = found["tiny-bf16", "test_members[tiny-bf16]"]["provenance"]["data"]
    assert set(data) == {"canaries", "inside", "outside"}
