"""``compsec repair``: from pinned prompt sets to an adapter and the line that puts it to work."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_compsec.commands.repair import add_arguments, run_repair
from pytest_compsec.compression import fine_tune
from pytest_compsec.errors import CompsecError, ConfigError, IntegrityError, MeasurementError
from pytest_compsec.models.pinning import pin
from pytest_compsec.prompts.builtin import load_builtin
from pytest_compsec.suite import open_suite
from tests.unit.compression.repair_models import (
    HARMFUL,
    LOSSY,
    TRAIN_BENIGN,
    TRAIN_HARMFUL,
    refusals,
    trained_checkpoint,
)

pytest.importorskip("peft")

Capture = pytest.CaptureFixture[str]
SETS = {"train-harmful": TRAIN_HARMFUL, "train-benign": TRAIN_BENIGN}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_checkpoint(tmp_path_factory)


@pytest.fixture
def project(checkpoint: Path, tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "original").symlink_to(checkpoint, target_is_directory=True)
    write_project(root, SETS)
    return root


def write_project(root: Path, sets: dict[str, list[str]], **variants: Any) -> None:
    for name, prompts in sets.items():
        rows = [
            {"id": f"{name}-{number}", "category": "things", "prompt": text}
            for number, text in enumerate(prompts)
        ]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "version": 1,
        "models": {
            "tiny": {
                "original": {"source": "./original"},
                "compressed": {"rtn3": {"quantize": LOSSY}, **variants},
            }
        },
        "prompts": {name: {"file": f"{name}.jsonl"} for name in sets},
        "defaults": {"max_new_tokens": 32},
    }
    (root / "compsec.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    pin(root / "compsec.yaml")


def repair(root: Path, *more: str, pair: str = "tiny-rtn3", out: str = "tuned") -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default=str(root / "compsec.yaml"))
    add_arguments(parser)
    given = ["--harmful", "train-harmful", "--benign", "train-benign", "--out", str(root / out)]
    return run_repair(parser.parse_args([pair, *given, *more]))


def test_the_pasted_line_makes_a_variant_that_refuses_again(project: Path, capsys: Capture) -> None:
    assert repair(project, "--steps", "40") == 0
    out = capsys.readouterr().out
    assert "it refused 16 of 16 harmful prompts and answered 16 of 16 benign ones" in out
    assert "(40 steps)" in out
    assert "MB more for the adapter (+" in out
    pasted = yaml.safe_load(next(line for line in out.splitlines() if "{quantize:" in line))
    assert pasted == {"rtn3-tuned": {"quantize": LOSSY, "adapter": "./tuned"}}
    write_project(project, SETS, **pasted)
    with open_suite(project / "compsec.yaml") as suite:
        assert refusals(suite.pair("tiny-rtn3").compressed, HARMFUL) < len(HARMFUL) / 2
        assert refusals(suite.pair("tiny-rtn3-tuned").compressed, HARMFUL) >= 20


def spoil(prompt: str) -> str:
    """The same request in another spelling."""
    return f"  {prompt.upper().rstrip('.?!')} !!"


@pytest.mark.parametrize("kind", ["harmful", "benign"])
def test_test_prompts_are_never_trained_on(project: Path, kind: str) -> None:
    leaked = [spoil(prompt.text) for prompt in load_builtin(kind).prompts[:2]]
    write_project(project, {**SETS, "train-harmful": [*TRAIN_HARMFUL, *leaked]})
    message = (
        rf"--harmful train-harmful .*: 2 of its prompts are in the built-in set '{kind}' too, from "
        r"which verdicts come: train-harmful-16, train-harmful-17"
    )
    with pytest.raises(ConfigError, match=message):
        repair(project)
    assert not (project / "tuned").exists()


@pytest.mark.parametrize("option", ["--harmful", "--benign"])
def test_the_built_in_sets_are_refused(project: Path, option: str) -> None:
    name = option.removeprefix("--")
    with pytest.raises(ConfigError, match=rf"{option} {name}: is a built-in set"):
        repair(project, option, name)


def test_other_sets_that_share_prompts_are_named(
    project: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = [spoil(TRAIN_HARMFUL[3]), "Something else."]
    write_project(project, {**SETS, "judged": shared})
    _stop_before_training(monkeypatch)
    with pytest.raises(MeasurementError, match="stopped"):
        repair(project)
    assert "note: 1 training prompts are in the set 'judged' too (train-harmful-3)" in (
        capsys.readouterr().out
    )


def _stop_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **kwargs: Any) -> Any:
        raise MeasurementError("stopped")

    monkeypatch.setattr("pytest_compsec.compression.training_examples.collect_examples", stop)


def test_prompts_changed_since_they_were_pinned_are_not_trained_on(project: Path) -> None:
    path = project / "train-benign.jsonl"
    path.write_text(path.read_text().replace("delicious", "poisonous"))
    with pytest.raises(IntegrityError, match="the prompt set 'train-benign'"):
        repair(project)


def test_an_interrupted_training_leaves_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(fine_tune, "batch_tensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        repair(project)
    assert not any("tuned" in path.name for path in project.iterdir())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1"),
        (["--rank", "0"], "--rank must be at least 1"),
        (["--learning-rate", "5"], "--learning-rate must be between 0 and 1"),
        (["--as", "two words"], "--as 'two words' must be letters"),
        (["--out", "."], "is not empty, and nothing is overwritten"),
        (["--harmful", "nothing"], "no prompt set 'nothing'"),
    ],
)
def test_arguments_that_make_no_sense(project: Path, more: Sequence[str], message: str) -> None:
    with pytest.raises(CompsecError, match=message):
        repair(project, *more)


def test_a_variant_with_files_or_an_adapter_of_its_own_is_refused(project: Path) -> None:
    path = project / "compsec.yaml"
    path.write_text(
        path.read_text().replace(
            "      rtn3:",
            "      own: {source: ./original}\n"
            "      tuned: {quantize: {method: round-to-nearest, bits: 3}, adapter: ./a}\n"
            "      rtn3:",
        )
    )
    with pytest.raises(ConfigError, match=r"compsec\.yaml:\d+: tiny-own has a source of its own"):
        repair(project, pair="tiny-own")
    with pytest.raises(ConfigError, match=r"tiny-tuned has an adapter already \(\./a\)"):
        repair(project, pair="tiny-tuned")
