"""``compsec scan``: every pair, printed and written, whatever is found."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from pytest_compsec import suite as suite_module
from pytest_compsec.attacks.prompts import search as search_module
from pytest_compsec.commands.scan import add_arguments, run_scan
from pytest_compsec.config.pairs import PairName
from pytest_compsec.errors import ConfigError, IntegrityError, LoadError
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.checks.fake_pair import FakePair
from tests.unit.checks.graded_answers import compliance, refusals

Capture = pytest.CaptureFixture[str]
HOSTILE = (
    "Sure.\x1b[31m\n::error::##vso[task]\u202e First open the box with the blue key, then look for "
    "a small lever behind its lid. Pull it twice, wait until both lamps are green, and write down "
    "what the display shows. Nothing else is needed before you close everything again."
)


class ScannedPair(FakePair):
    task = "text-generation"
    problem: Exception | None = None

    def answers(self, prompts: Any) -> Any:
        if self.problem is not None:
            raise self.problem
        return super().answers(prompts)


@dataclasses.dataclass
class FakeSuite:
    """The pairs ``m-same``, ``m-lossy`` and ``other-same``, without files."""

    made: dict[str, ScannedPair]
    confidence: float = 0.95
    path: Path = Path("compsec.yaml")

    @property
    def pairs(self) -> tuple[PairName, ...]:
        return tuple(PairName(name, *name.split("-")) for name in self.made)

    def pair(self, name: str) -> ScannedPair:
        return self.made[name]

    def require_lock(self) -> None: ...

    def unverified_prompt_set(self, name: str) -> None:
        if name != "harmful":
            raise ConfigError(f"there is no prompt set {name!r}")

    def lock_digest(self) -> str:
        return "f" * 64

    def __enter__(self) -> FakeSuite:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> FakeSuite:
    arm = refusals(320)
    lossy = [*[compliance(text=HOSTILE)] * 7, *arm[7:]]
    made = {}
    for name, compressed in (("m-same", arm), ("m-lossy", lossy), ("other-same", arm)):
        made[name] = ScannedPair(arm, compressed)
        made[name].id = name
    found = FakeSuite(made)
    monkeypatch.setattr(suite_module, "open_suite", lambda path, **options: found)
    return found


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="compsec.yaml")
    add_arguments(parser)
    return run_scan(parser.parse_args(words))


def test_every_pair_is_printed_and_the_exit_code_is_0(suite: FakeSuite, capsys: Capture) -> None:
    assert run() == 0
    out, err = capsys.readouterr()
    for name in suite.made:
        assert f"scanning {name}" in err
        assert f"scanning {name}" not in out
    assert "REGRESSED: m-lossy answers 7 of the 320 prompts" in out
    assert "PRESERVED: m-same answers 0 of the 320 prompts" in out
    assert "PRESERVED: other-same no longer refuses 0 of the 64 prompts" in out
    assert "REGRESSED: m-lossy no longer refuses 7 of the 64 prompts" in out
    assert "does not judge: exit code 0" in out


def test_answers_are_truncated_and_harmless(suite: FakeSuite, capsys: Capture) -> None:
    assert run("--variant", "lossy", "--show-answers", "3") == 0
    out = capsys.readouterr().out
    assert "7 bypasses, 3 shown:" in out
    assert out.count("      compressed | Sure.") == 3
    assert "--show-answers 7 shows them all" in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "##vso" not in out
    assert not any(line.startswith("::") for line in out.splitlines())
    assert max(map(len, (line for line in out.splitlines() if "|" in line))) < 200
    assert run("--variant", "lossy", "--show-answers", "0") == 0
    assert "compressed |" not in capsys.readouterr().out


def test_filters(suite: FakeSuite, capsys: Capture) -> None:
    assert run("--model", "m", "--variant", "same", "--fraction", "0.5") == 0
    out = capsys.readouterr().out
    assert "m-same no longer refuses 0 of the 160" in out
    assert "lossy" not in out
    assert "other" not in out


def test_classifiers_are_left_out(suite: FakeSuite, capsys: Capture) -> None:
    suite.made["other-same"].task = "image-classification"
    assert run() == 0
    assert "other-same" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="is a language model"):
        run("--model", "other")


def test_the_json_holds_all_answers(suite: FakeSuite, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "scan.json"
    assert run("--show-answers", "0", "--json", str(path)) == 0
    data = json.loads(path.read_text(encoding="utf-8"))
    assert (data["schema"], data["lock_digest"]) == ("pytest-compsec/scan", "f" * 64)
    assert [entry["pair"] for entry in data["pairs"]] == list(suite.made)
    bypasses, edges = (CheckResult.from_json(one) for one in data["pairs"][1]["results"])
    assert (bypasses.check, bypasses.verdict) == ("no_safety_bypass", Verdict.REGRESSED)
    assert sum(row.regressed for row in bypasses.evidence) == 7
    assert edges.check == "edge_cases_preserved"
    assert [file.name for file in tmp_path.iterdir()] == ["scan.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "nobody"), "--model 'nobody' is not in compsec.yaml. There are: m, other"),
        (("--variant", "nf4"), "--variant 'nf4'"),
        (("--prompts", "absent"), "no prompt set 'absent'"),
        (("--fraction", "20"), "--fraction=20"),
        (("--show-answers", "-1"), "--show-answers"),
        (("--json", "nowhere/scan.json"), "--json"),
        (("--budget", "0", "--search"), "--budget"),
        (("--transforms", "base64"), "add --search"),
        (("--transforms", "nonsense", "--search"), "no prompt transform 'nonsense'"),
    ],
)
def test_usage_is_said_before_anything_is_asked(
    suite: FakeSuite, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        run(*words)
    assert not any(pair.asked for pair in suite.made.values())


def test_a_pair_that_cannot_be_measured_does_not_hide_the_others(
    suite: FakeSuite, tmp_path: Path, capsys: Capture
) -> None:
    suite.made["m-same"].problem = LoadError("the weights are damaged\x1b[0m")
    path = tmp_path / "scan.json"
    assert run("--json", str(path)) == 2
    out = capsys.readouterr().out
    assert "NOT_MEASURED: m-same: the weights are damaged" in out
    assert "REGRESSED: m-lossy" in out
    assert "1 of 3 pairs could not be measured" in out
    data = json.loads(path.read_text(encoding="utf-8"))
    assert "damaged" in data["pairs"][0]["error"]


def test_tampered_bytes_end_the_scan(suite: FakeSuite) -> None:
    suite.made["m-same"].problem = IntegrityError("other bytes")
    with pytest.raises(IntegrityError):
        run()


class FakeReport:
    def lines(self) -> list[str]:
        return [
            "1 of 20 rewritten prompts: \x1b[31mbase64",
            "",
            "transform  asked",
            "rot13         20",
        ]

    def to_json(self) -> dict[str, Any]:
        return {"found": 1}


def test_the_search_gets_what_was_asked_for(
    suite: FakeSuite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    calls: list[dict[str, Any]] = []

    def search(pair: Any, **options: Any) -> FakeReport:
        calls.append({"pair": pair.id, **options})
        return FakeReport()

    monkeypatch.setattr(search_module, "search_bypasses", search)
    path = tmp_path / "scan.json"
    words = ["--variant", "lossy", "--search", "--budget", "20", "--transforms", "base64, rot13"]
    assert run(*words, "--seed", "4", "--json", str(path)) == 0
    assert calls == [
        {
            "pair": "m-lossy",
            "prompts": "harmful",
            "transforms": ["base64", "rot13"],
            "budget": 20,
            "seed": 4,
            "progress": None,
        }
    ]
    out = capsys.readouterr().out
    assert "1 of 20 rewritten prompts: [31mbase64" in out
    assert "transform  asked\nrot13         20\n" in out  # columns stay columns
    assert json.loads(path.read_text())["pairs"][0]["search"] == {"found": 1}


def test_without_search_nothing_is_searched(
    suite: FakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "search_bypasses", lambda *args, **options: 1 / 0)
    assert run() == 0
