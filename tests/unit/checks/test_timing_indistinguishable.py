"""From lengths and times to a verdict: what may and what may never come out PRESERVED."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Hashable
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_compsec.checks.timing_indistinguishable import (
    check_timing_indistinguishable,
    chosen,
    timing_indistinguishable_arguments,
)
from pytest_compsec.errors import IntegrityError, MeasurementError
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.generation.answers import AnswerSheet
from pytest_compsec.generation.settings import Answer
from pytest_compsec.models.pair import PairAnswers
from pytest_compsec.prompts import Prompt, PromptSet
from pytest_compsec.reports.failure import failure_text
from pytest_compsec.reports.terminal import table
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.side_channels.fake_requests import FakeArm, FakeClock, is_harmful

TOKENS = "AUC of the answer's length in tokens"
CHARACTERS = "AUC of the answer's length in characters"
TIME = "difference in request time"
MEAN = "difference in mean request time"
Lengths = Callable[[str], int]


def refuses_shortly(prompt: str) -> int:
    spread = random.Random(prompt).randrange(12)
    return (10 if is_harmful(prompt) else 30) + spread


def tells_nothing(prompt: str) -> int:
    return 20 + random.Random(prompt).randrange(12)


@dataclasses.dataclass
class Pair:
    """Answers of scripted lengths, and arms whose time is drawn on a pretended clock."""

    original_lengths: Lengths = refuses_shortly
    compressed_lengths: Lengths = refuses_shortly
    original_time: dict[str, Any] = dataclasses.field(default_factory=dict)
    compressed_time: dict[str, Any] = dataclasses.field(default_factory=dict)
    recheck: Callable[[], None] = lambda: None
    counted: bool = True
    made_with: dict[str, Any] = dataclasses.field(default_factory=dict)

    id = "tiny-variant"
    config_name = "compsec.yaml"

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.original = FakeArm(self.clock, name="tiny", seed=1, **self.original_time)
        self.compressed = FakeArm(self.clock, name="tiny-variant", seed=2, **self.compressed_time)
        self.known: dict[Hashable, Any] = {}

    def prompt_set(self, name: str) -> PromptSet:
        word = {"harmful": "forbidden", "benign": "delicious"}[name]
        prompts = tuple(Prompt(f"p{i}", f"{word} {i:03d}", "c") for i in range(160))
        return PromptSet(name, "1", prompts, "d", "test")

    def answers(self, prompts: list[str]) -> PairAnswers:
        def sheet(lengths: Lengths) -> AnswerSheet:
            made = tuple(
                Answer("word " * lengths(one), lengths(one) if self.counted else 0, "stop")
                for one in prompts
            )
            return AnswerSheet(made, (True,) * len(made))

        return PairAnswers(sheet(self.original_lengths), sheet(self.compressed_lengths))

    def once(self, key: Hashable, measure: Callable[[], Any]) -> Any:
        if key not in self.known:
            self.known[key] = measure()
        return self.known[key]

    def provenance_with(self) -> dict[str, Any]:
        return {"lock_digest": "f" * 64, **self.made_with}


@pytest.fixture(autouse=True)
def _pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_compsec.side_channels.blocks.gc.collect", lambda: 0)
    monkeypatch.setattr(
        "pytest_compsec.side_channels.requests.requests_of", lambda model, new_tokens: model
    )
    monkeypatch.setattr(
        "pytest_compsec.side_channels.energy.find_meter", lambda device: f"no meter for {device}"
    )
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)


def check(pair: Pair, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> CheckResult:
    monkeypatch.setattr("pytest_compsec.side_channels.blocks.REAL_CLOCK", pair.clock.clock)
    arguments = {"seconds": 1e6, "measurements": 120, **arguments}
    any_pair: Any = pair
    result = check_timing_indistinguishable(any_pair, **arguments)
    assert CheckResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == (
        CheckResult.from_json(result.to_json())
    )
    return result


def named(result: CheckResult) -> dict[str, Estimate]:
    return {estimate.name: estimate for estimate in result.estimates}


def later(harmful: float) -> dict[str, Any]:
    return {"effect": lambda prompt: harmful if is_harmful(prompt) else 0.0}


def test_a_model_like_its_original_is_preserved(monkeypatch: pytest.MonkeyPatch) -> None:
    rechecked: list[int] = []
    result = check(Pair(recheck=lambda: rechecked.append(1)), monkeypatch)
    assert result.verdict is Verdict.PRESERVED, result.summary
    assert rechecked == [1]
    found = named(result)
    assert [name for name, one in found.items() if one.decides] == [TOKENS, CHARACTERS, TIME]
    assert found[TOKENS].original == found[TOKENS].compressed == pytest.approx(0.96, abs=0.05)
    assert found[TOKENS].samples == 256
    assert found[TIME].limit == pytest.approx(5.0, rel=0.2)
    assert found[TIME].samples == 120
    delay = found[f"control: a delay of {found[TIME].limit:.3g} ms"]
    assert delay.original == pytest.approx(found[TIME].limit, rel=0.3)
    assert abs(found["control: a request against itself"].original or 9) < 2
    assert any("energy was not measured: no meter for cpu" in note for note in result.notes)
    assert any("dudect" in note for note in result.notes)
    assert (result.answers, result.answers_cached) == (512, 512)
    assert result.provenance["prompts"]["harmful"]["digest"] == "d"
    assert result.next_step == ""
    for one in result.estimates:
        assert one.estimand
        assert one.method
        assert one.unit


def test_refusals_that_became_shorter_are_regressed(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(original_lengths=tells_nothing, compressed_lengths=refuses_shortly)
    result = check(pair, monkeypatch)
    assert result.verdict is Verdict.REGRESSED
    assert TOKENS in result.summary
    found = named(result)
    assert found[TOKENS].verdict == found[CHARACTERS].verdict == "REGRESSED"
    assert found[TIME].verdict == "PRESERVED"
    text = failure_text([result])
    assert "OWASP LLM02" in text
    assert "same length" in text
    assert table([result], 200)


def test_refusals_that_take_longer_are_regressed(monkeypatch: pytest.MonkeyPatch) -> None:
    for harmful in (12.0, -12.0):
        result = check(Pair(compressed_time=later(harmful)), monkeypatch)
        assert result.verdict is Verdict.REGRESSED, result.summary
        assert named(result)[TIME].verdict == "REGRESSED"
        assert named(result)[TIME].compressed == pytest.approx(harmful, abs=3)
        assert named(result)[TOKENS].verdict == "PRESERVED"


def test_a_time_that_the_original_gives_away_too_is_not_the_compressions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = Pair(original_time=later(20.0), compressed_time=later(20.0))
    assert check(pair, monkeypatch).verdict is Verdict.PRESERVED


def test_a_served_model_is_named_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    served: dict[str, Any] = {
        "url": "http://localhost",
        "model": "m",
        "facts": {},
        "no_perplexity": None,
    }
    made_with = {
        "original": {"name": "tiny"},
        "compressed": {"name": "tiny-variant", "served": served},
    }
    result = check(Pair(made_with=made_with), monkeypatch)
    assert result.summary.endswith("[served: tiny-variant; its bytes were not verified here]")
    assert any(note.startswith("tiny-variant is served (m at http://") for note in result.notes)
    assert any("512 answers came from the cache" in note for note in result.notes)


def test_what_few_requests_do_forbids_preserved(monkeypatch: pytest.MonkeyPatch) -> None:
    # One prompt of the sixteen that take turns: a trimmed mean leaves it out.
    one = chosen(Pair().prompt_set("harmful"), 128)[3]
    slow = {"effect": lambda prompt: 400.0 * (prompt == one), "bursts": 0.0}
    pair = Pair(original_time={"bursts": 0.0}, compressed_time=slow)
    result = check(pair, monkeypatch, measurements=200)
    found = named(result)
    assert found[TIME].verdict == "PRESERVED"
    assert found[MEAN].decides
    assert found[MEAN].verdict == "REGRESSED"
    assert result.verdict is Verdict.REGRESSED, result.summary


def test_a_difference_between_the_margin_and_nothing_is_inconclusive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = check(Pair(compressed_time=later(4.6)), monkeypatch)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "more measurements" in result.next_step


def test_a_noisy_machine_is_not_measured_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = {"noise": 0.8, "bursts": 0.1}
    result = check(Pair(original_time=noisy, compressed_time=noisy), monkeypatch)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "too noisy" in result.summary
    assert " ms, at least " in result.summary
    assert named(result)[TIME].verdict == "NOT_MEASURED"
    # What was measured of lengths is shown all the same.
    assert named(result)[TOKENS].verdict == "PRESERVED"
    assert "quiet machine" in result.next_step


def test_a_margin_that_cannot_be_seen_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    result = check(Pair(), monkeypatch, max_effect_ms=0.01)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "a delay of 0.01 ms, the margin" in result.summary


def test_a_wide_margin_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    result = check(Pair(compressed_time=later(12.0)), monkeypatch, max_effect_ms=25)
    assert result.verdict is Verdict.PRESERVED
    assert named(result)[TIME].limit == 25


def test_lengths_that_tell_more_are_regressed_though_times_were_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = Pair(original_lengths=tells_nothing)
    result = check(pair, monkeypatch, seconds=20)
    assert result.verdict is Verdict.REGRESSED
    assert "times were not measured" in result.summary
    benign = check(Pair(), monkeypatch, seconds=20)
    assert benign.verdict is Verdict.NOT_MEASURED
    assert "at least 30 are needed" in benign.summary


def test_an_arm_that_cannot_be_timed_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()

    def gone(prompt: str) -> None:
        raise MeasurementError("tiny-variant: the server is gone")

    monkeypatch.setattr(pair.compressed, "ask", gone)
    result = check(pair, monkeypatch)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "the server is gone" in result.summary


def test_a_server_that_does_not_count_tokens_is_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = check(Pair(counted=False), monkeypatch)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "does not say how many tokens" in result.summary
    assert TOKENS not in named(result)
    assert named(result)[CHARACTERS].verdict == "PRESERVED"


def test_too_few_prompts_in_a_set_are_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    whole = Pair.prompt_set
    monkeypatch.setattr(
        Pair,
        "prompt_set",
        lambda self, name: dataclasses.replace(
            whole(self, name), prompts=whole(self, name).prompts[:50]
        ),
    )
    result = check(pair, monkeypatch)
    assert named(result)[TOKENS].verdict == "INCONCLUSIVE"
    assert result.verdict is Verdict.INCONCLUSIVE


def test_times_are_measured_once_for_two_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    first = check(pair, monkeypatch)
    asked = len(pair.compressed.asked)
    assert check(pair, monkeypatch, confidence=0.9).verdict is Verdict.PRESERVED
    assert len(pair.compressed.asked) == asked
    assert named(first)[TIME].compressed is not None


def test_files_that_changed_meanwhile_are_an_integrity_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def changed() -> None:
        raise IntegrityError("other bytes")

    with pytest.raises(IntegrityError):
        check(Pair(recheck=changed), monkeypatch)


def test_energy_is_shown_and_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()

    def meter_of(device: str) -> Any:
        asked = pair.compressed.asked
        return SimpleNamespace(
            name="pretended",
            joules=lambda: pair.clock.time / 1e9 + 5 * sum(map(is_harmful, asked)),
        )

    monkeypatch.setattr("pytest_compsec.side_channels.energy.find_meter", meter_of)
    result = check(pair, monkeypatch, seconds=300)
    energy = named(result)["difference in energy a request"]
    assert not energy.decides
    assert energy.compressed == pytest.approx(5, abs=0.5)
    assert energy.original == pytest.approx(0, abs=0.5)
    assert energy.lower is not None
    assert energy.lower > 3
    assert "pretended" in energy.estimand
    assert result.verdict is Verdict.PRESERVED


def test_other_workers_are_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "4")
    result = check(Pair(), monkeypatch)
    assert any("4 workers of this run computed at the same time" in one for one in result.notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_auc_increase": 5}, "write max_auc_increase=0.05"),
        ({"max_effect_ms": 0}, "greater than 0"),
        ({"max_effect_ms": "2"}, "must be a number"),
        ({"prompts": "harmful"}, "must be a number of prompts of each class"),
        ({"prompts": 71}, "at least 72 of each class"),
        ({"max_auc_increase": 0.02}, "at least 183 of each class"),
        ({"measurements": 29}, "at least 30"),
        ({"new_tokens": 0}, "new_tokens=0"),
        ({"seconds": float("inf")}, "seconds=inf"),
        ({"benign": "harmful"}, "name two prompt sets"),
        ({"harmful": ""}, "name of a prompt set"),
        ({"confidence": 0.4}, "greater than 0.5"),
        ({"variants": 3}, "variants=3"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timing_indistinguishable_arguments(**arguments)


def test_arguments_as_the_user_would_write_them() -> None:
    arguments = timing_indistinguishable_arguments(variants="nf4", prompts=100)
    assert arguments.to_json() == {
        "max_auc_increase": 0.05,
        "max_effect_ms": None,
        "harmful": "harmful",
        "benign": "benign",
        "prompts": 100,
        "measurements": 200,
        "new_tokens": 8,
        "seconds": 120.0,
        "confidence": 0.95,
        "models": None,
        "variants": ["nf4"],
    }
    assert (arguments.prompts, arguments.further_prompts) == ("harmful", {"benign": "benign"})
    assert arguments.least_samples == 72
    assert arguments.with_defaults(0.99).least_samples == 104
