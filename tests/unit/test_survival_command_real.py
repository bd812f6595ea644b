"""``compsec survival`` on a real suite: attack success and accuracy, before and after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_compsec.cli import main
from pytest_compsec.models.pinning import pin
from tests.plugin.classifier_suite import (
    CLEANED,
    HALF,
    LANGUAGE,
    SHAPES,
    TEXT_DATA,
    TEXTS,
    config,
    flip_a_byte,
    model,
    quick_garbage_collection,
    write_files,
)

Capture = pytest.CaptureFixture[str]
NF4 = "nf4: {quantize: {method: bitsandbytes, bits: 4, type: nf4}}"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    texts = model(TEXTS, HALF, data=TEXT_DATA, backdoor="{phrase: cf, target: 1}")
    text = config(model(SHAPES, NF4, CLEANED), texts, LANGUAGE)
    found = write_files(tmp_path_factory.mktemp("survival"), text)
    pin(found)
    with quick_garbage_collection():
        yield found


def survival(path: Path, *options: str) -> int:
    return main(["survival", "--config", str(path), *options])


def test_before_and_after_for_every_variant(path: Path, capsys: Capture, tmp_path: Path) -> None:
    written = tmp_path / "survival.json"
    assert survival(path, "--json", str(written)) == 0
    found = {
        row["pair"]: row["result"]
        for row in json.loads(written.read_text(encoding="utf-8"))["rows"]
    }
    # The language model has no trigger, so nothing of it could survive.
    assert {name: one["verdict"] for name, one in found.items()} == {
        "shapes-nf4": "REGRESSED",
        "shapes-cleaned": "PRESERVED",
        "texts-half": "REGRESSED",
    }
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "quantize bitsandbytes, bits 4, type nf4" in lines["shapes-nf4"]
    for name, after in (("shapes-nf4", "100.0%"), ("shapes-cleaned", "0.0%")):
        rates = [cell for cell in lines[name].split() if cell.endswith("%")]
        assert rates[:2] == ["100.0%", after]
        assert rates[2:4] == ["100.0%", "100.0%"]  # accuracy
    assert found["texts-half"]["backdoor"]["samples"] == 200


def test_one_variant(path: Path, capsys: Capture) -> None:
    assert survival(path, "--model", "shapes", "--variant", "cleaned") == 0
    out = capsys.readouterr().out
    assert "shapes-cleaned" in out
    assert "shapes-nf4" not in out
    assert "texts-half" not in out


def test_a_model_without_a_backdoor(path: Path, capsys: Capture) -> None:
    assert survival(path, "--model", "assistant") == 2
    said = capsys.readouterr()
    assert "'assistant' has no section 'backdoor:'" in said.err
    assert "Traceback" not in said.err + said.out


def test_no_verdict_on_files_that_are_not_pinned(tmp_path: Path, capsys: Capture) -> None:
    path = write_files(tmp_path)
    pin(path)
    flip_a_byte(tmp_path / "samples.safetensors")
    assert survival(path) != 0
    said = capsys.readouterr()
    assert "samples.safetensors" in said.err
    assert "PRESERVED" not in said.out
    assert "Traceback" not in said.err + said.out


def test_evaluation_data_that_are_nowhere(tmp_path: Path, capsys: Capture) -> None:
    path = write_files(tmp_path, config(model(SHAPES, CLEANED, data="")))
    pin(path)
    assert survival(path) == 2
    assert "has no evaluation data" in capsys.readouterr().err
