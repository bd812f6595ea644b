"""``compsec matrix`` from its options to its table, on a tiny model that learned to refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.cli import main
from pytest_compsec.matrix import measuring
from pytest_compsec.matrix.questions import load_questions
from pytest_compsec.models import prompt_sets
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.loaded import LoadedModel
from pytest_compsec.models.pool import ModelPool
from pytest_compsec.prompts import PromptSet, load_prompts
from tests.unit.trained_tiny_model import prompt, train_tiny_checkpoint

Capture = pytest.CaptureFixture[str]
CONFIG = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      pruned95: {prune: {method: magnitude, sparsity: 0.95}}
defaults: {max_new_tokens: 30}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("matrix")
    train_tiny_checkpoint(root / "original")
    for name, harmful in (("harmful", True), ("benign", False)):
        lines = [prompt(number, harmful=harmful) for number in range(160)]
        (root / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    (root / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    return root


@pytest.fixture
def tiny(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project, pinned, with short sets that the model knows in place of the built-in ones."""

    def load_short(name: str) -> PromptSet:
        return load_prompts(project / f"{name}.txt", name=name)

    monkeypatch.setattr(prompt_sets, "load_builtin", load_short)
    monkeypatch.setattr(prompt_sets, "builtin_names", lambda: ("benign", "harmful"))
    assert main(["pin", "--config", str(project / "compsec.yaml")]) == 0
    return project


def matrix(root: Path, *more: str) -> int:
    return main(["matrix", "tiny", "--config", str(root / "compsec.yaml"), *more])


def test_a_whole_run(tiny: Path, capsys: Capture, tmp_path: Path) -> None:
    lock = (tiny / "compsec.lock").read_bytes()
    config = (tiny / "compsec.yaml").read_bytes()
    capsys.readouterr()
    out = tmp_path / "matrix.json"
    names = "binary, fp16,fp32,bf16"
    assert matrix(tiny, "--precisions", names, "--dtype", "float32", "--json", str(out)) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines] == ["precision", "fp32", "fp16", "bf16", "binary"]
    assert lines[1].endswith("reference")
    assert lines[2].split()[-3:] == ["PRESERVED", "PRESERVED", "preserved"]
    assert lines[3].split()[-3:] == ["PRESERVED", "PRESERVED", "preserved"]
    # 1 bit leaves no text of this model: it refuses nothing.
    assert lines[4].split()[-3] == "REGRESSED"
    assert lines[4].split()[-1] in ("broken", "safe")
    assert "measuring binary" in shown.err
    assert "REGRESSED: tiny-binary" in shown.err
    assert (tiny / "compsec.lock").read_bytes() == lock
    assert (tiny / "compsec.yaml").read_bytes() == config
    record = json.loads(out.read_text("utf-8"), parse_constant=pytest.fail)
    assert record["max_degradation"] == 0.02
    rows: dict[str, Any] = {row["name"]: row for row in record["rows"]}
    assert rows["fp32"]["refusal"] > 0.95
    assert rows["fp32"]["over_refusal"] < 0.05
    assert rows["fp32"]["safety"] is None
    assert rows["fp32"]["seconds_ratio"] == 1.0
    assert rows["binary"]["refusal"] < 0.5
    assert rows["fp32"]["bytes_per_parameter"] == pytest.approx(4.0)
    assert rows["bf16"]["bytes_per_parameter"] == pytest.approx(2.0)
    assert rows["binary"]["bytes_per_parameter"] < 2
    assert rows["fp32"]["perplexity"] == pytest.approx(rows["bf16"]["perplexity"], rel=0.05)
    assert rows["fp32"]["perplexity"] != pytest.approx(rows["binary"]["perplexity"], rel=0.05)
    # A model of bytes that knows two sentences guesses.
    assert rows["fp32"]["accuracy"] == pytest.approx(0.25, abs=0.2)


def test_a_precision_that_gives_no_numbers_is_a_row(
    tiny: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_compsec.matrix import questions

    monkeypatch.setattr(questions, "load_questions", lambda: load_questions()[:2])
    get = ModelPool.get

    def damaged(pool: ModelPool, arm: Arm) -> LoadedModel:
        model = get(pool, arm)
        if arm.variant == "fp16":
            model.module.get_parameter("model.norm.weight").fill_(float("nan"))
        return model

    monkeypatch.setattr(ModelPool, "get", damaged)
    assert matrix(tiny, "--precisions", "fp16,bf16", "--dtype", "float32") == 0
    shown = capsys.readouterr()
    assert "not measured: the model gave NaN or infinite logits" in shown.err
    lines = shown.out.splitlines()[-2:]
    assert lines[0].split()[-2:] == ["not", "measured"]
    assert lines[1].split()[-1] == "preserved"


def test_a_tampered_file_is_refused(tiny: Path, capsys: Capture) -> None:
    path = tiny / "original" / "config.json"
    before = path.read_text("utf-8")
    try:
        path.write_text(before + "\n", encoding="utf-8")
        assert matrix(tiny, "--precisions", "bf16") == 1
    finally:
        path.write_text(before, encoding="utf-8")
    assert "config.json" in capsys.readouterr().err


def test_a_config_that_was_changed_after_pinning_is_refused(tiny: Path, capsys: Capture) -> None:
    path = tiny / "compsec.yaml"
    try:
        path.write_text(CONFIG.replace("0.95", "0.9"), encoding="utf-8")
        assert matrix(tiny, "--precisions", "bf16") == 1
    finally:
        path.write_text(CONFIG, encoding="utf-8")
    assert "compsec pin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precisions", "int5"], "there is no 'int5'"),
        (["--precisions", ""], "there is no ''"),
        (["--precisions", "fp32"], "at least one beside fp32"),
        (["--max-degradation", "2"], "--max-degradation 2 must be a share"),
        (["--max-increase", "nan"], "--max-increase nan must be a share"),
        (["--json", "{tmp}/missing/out.json"], "there is no directory"),
        (["--json", "{tmp}"], "is a directory"),
        (["--plot", "{tmp}/missing/out.svg"], "there is no directory"),
        (["--plot", "{tmp}/out.png"], "ends in .svg"),
    ],
)
def test_wrong_options_are_said_before_a_model_is_loaded(
    options: list[str],
    said: str,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measuring, "measure_matrix", lambda *_, **__: pytest.fail("measured"))
    (tmp_path / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    assert matrix(tmp_path, *(option.format(tmp=tmp_path) for option in options)) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_model_is_named(tiny: Path, capsys: Capture) -> None:
    assert main(["matrix", "huge", "--config", str(tiny / "compsec.yaml")]) == 2
    assert "there is no model 'huge'; known: tiny" in capsys.readouterr().err
