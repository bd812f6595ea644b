"""``compsec survival``: the table, its options, and what it refuses."""

from __future__ import annotations

import argparse
import json
import types
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec import suite as suites
from pytest_compsec.attacks.backdoor import Backdoor
from pytest_compsec.commands.survival import add_arguments, method_of, run_survival
from pytest_compsec.config.pairs import PairName
from pytest_compsec.errors import ConfigError
from pytest_compsec.models.arm import Recipe
from tests.unit.checks.backdoor_pairs import PATCH, Rule, RulePair, clean, into

Capture = pytest.CaptureFixture[str]


class Suite:
    """As much of a suite as the command uses."""

    path = Path("compsec.yaml")
    confidence = 0.95

    def __init__(self, backdoor: Backdoor) -> None:
        rules: dict[str, Rule] = {"int8": into(0), "tuned": clean}
        self._pairs = {}
        for name, rule in rules.items():
            pair = RulePair(into(0), rule, backdoor=backdoor)
            pair.id = f"digits-{name}"
            pair.classifiers[1].name = pair.id
            self._pairs[pair.id] = pair
        self.pairs = tuple(PairName(f"digits-{name}", "digits", name) for name in rules)

    def pair(self, name: str) -> Any:
        return self._pairs[name]

    def lock_digest(self) -> str:
        return "f" * 64

    def __enter__(self) -> Suite:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def backdoor() -> Backdoor:
    return Backdoor(PATCH, 0)


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch, backdoor: Backdoor) -> None:
    monkeypatch.setattr(suites, "open_suite", lambda path: Suite(backdoor))


def survival(*options: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="compsec.yaml")
    add_arguments(parser)
    return run_survival(parser.parse_args(options))


def test_the_table(capsys: Capture) -> None:
    assert survival() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["variant", "method"]
    kept, gone = lines[1].split(), lines[2].split()
    assert kept[0] == "digits-int8"
    assert kept[-1] == "REGRESSED"
    assert kept[2:4] == ["100.0%", "100.0%"]
    assert gone[0] == "digits-tuned"
    assert gone[-1] == "PRESERVED"
    assert gone[2:4] == ["100.0%", "0.0%"]
    assert f"trigger: {PATCH.name} -> class 0" in "\n".join(lines)


def test_one_variant_and_figures_in_a_file(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "survival.json"
    assert survival("--variant", "tuned", "--json", str(path)) == 0
    assert "digits-int8" not in capsys.readouterr().out
    record = json.loads(path.read_text(encoding="utf-8"))
    assert [row["pair"] for row in record["rows"]] == ["digits-tuned"]
    assert record["rows"][0]["result"]["backdoor"]["compressed"]["asr"] == 0.0
    assert record["confidence"] == 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "digit"), "--model 'digit': there is none; there are: digits"),
        (("--variant", "int4"), "--variant 'int4': there is none; there are: int8, tuned"),
        (("--max-asr", "5"), "write max_asr=0.05"),
        (("--json", "/nowhere/at/all.json"), "--json"),
    ],
)
def test_wrong_options(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        survival(*options)


class TestWithoutATrigger:
    @pytest.fixture
    def backdoor(self) -> Backdoor:
        return Backdoor()

    def test_there_is_nothing_to_survive(self) -> None:
        with pytest.raises(ConfigError, match="no model has a section 'backdoor:'"):
            survival()
        with pytest.raises(ConfigError, match="'digits' has no section 'backdoor:'"):
            survival("--model", "digits")


def test_inversion_names_each_arm_once(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pytest_compsec.attacks import inversion

    asked = []

    def find(model: Any, data: Any, **more: Any) -> inversion.InversionReport:
        asked.append(model.name)
        found = inversion.ClassInversion(0, 4.0, 1.0, anomaly_index=float("inf"), suspect=True)
        return inversion.InversionReport((found,), 4.0, 10, "s", "d", 1, 0.1, 1, 0, 0.99)

    monkeypatch.setattr(inversion, "find_triggers", find)
    path = tmp_path / "found.json"
    assert survival("--invert", "--json", str(path)) == 0
    assert asked == ["digits", "digits-int8", "digits-tuned"]
    out = capsys.readouterr().out
    assert out.count("suspected target of a backdoor: class 0") == 3
    assert inversion.LIMITS[0] in out
    written = json.loads(path.read_text(encoding="utf-8"))["inversions"]["digits-int8"]
    # JSON has no infinity.
    assert written["classes"][0]["anomaly_index"] is None


def test_how_a_variant_is_called() -> None:
    def named(recipe: Recipe | None) -> str:
        arm: Any = types.SimpleNamespace(recipe=recipe, dtype=None)
        return method_of(arm)

    options = {"bits": 4, "type": "nf4", "group_size": None}
    assert named(Recipe("quantize", "bitsandbytes", options, {})) == (
        "quantize bitsandbytes, bits 4, type nf4"
    )
    assert named(None) == "files"
