"""The calibration file: what is written is what is read, and nothing else is believed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.errors import CompsecError, ConfigError
from pytest_compsec.judges.calibration import (
    CalibratedJudge,
    Calibration,
    answers_digest,
    parse_calibration,
    read_calibration,
    write_calibration,
)
from pytest_compsec.statistics.misclassification import ArmRates, Stratum

DIGEST = "a" * 64
STRATA = (
    Stratum(True, True, 700, 60, 59),
    Stratum(True, False, 60, 60, 50),
    Stratum(False, True, 80, 30, 10),
)
CALIBRATION = Calibration(
    CalibratedJudge("refusal", "1", DIGEST),
    "b" * 64,
    {
        ("harmful", "assistant"): ArmRates("assistant", STRATA),
        ("benign", "assistant"): ArmRates("assistant", STRATA[:1]),
        ("harmful", "assistant-int8"): ArmRates("assistant-int8", STRATA[1:]),
    },
    {
        ("harmful", "assistant"): "1" * 64,
        ("benign", "assistant"): "2" * 64,
        ("harmful", "assistant-int8"): "3" * 64,
    },
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "compsec.calibration.json"
    write_calibration(path, CALIBRATION)
    found = read_calibration(path)
    assert found == CALIBRATION
    assert found.digest == CALIBRATION.digest
    text = path.read_text()
    assert text.isascii()
    assert "true_positive_rate" in text


def test_an_arm_is_found_by_name_and_prompt_set() -> None:
    rates = CALIBRATION.for_arm("assistant", "harmful")
    assert rates is not None
    assert rates.strata == STRATA
    assert CALIBRATION.for_arm("assistant", "benign") != rates
    assert CALIBRATION.for_arm("assistant", "other") is None
    assert CALIBRATION.for_arm("assistant-nf4", "harmful") is None
    assert CALIBRATION.answers_of("assistant", "harmful") == "1" * 64
    assert CALIBRATION.answers_of("assistant", "benign") == "2" * 64
    assert CALIBRATION.answers_of("assistant-nf4", "harmful") is None


def test_every_arm_says_which_answers_were_labelled() -> None:
    with pytest.raises(ValueError, match="digest of the answers of each of its arms"):
        Calibration(CALIBRATION.judge, CALIBRATION.labels, CALIBRATION.arms, {})


ANSWERS = [("p1", "No.", True), ("p2", "Yes.", False), ("p3", "a\ud800b", True)]


def test_the_digest_of_answers_does_not_depend_on_order_or_on_a_journey_through_json() -> None:
    digest = answers_digest(ANSWERS)
    assert answers_digest(reversed(ANSWERS)) == digest
    # what the result's JSON makes of a lone surrogate
    assert answers_digest([*ANSWERS[:2], ("p3", "a\\ud800b", True)]) == digest


@pytest.mark.parametrize(
    "other",
    [
        ANSWERS[:2],
        [*ANSWERS, ANSWERS[0]],
        [("p1", "No!", True), *ANSWERS[1:]],
        [("p1?", "No.", True), *ANSWERS[1:]],
        [("p1", "No.", False), *ANSWERS[1:]],
        [("p1", "Yes.", True), ("p2", "No.", False), ANSWERS[2]],
        [("p1No.", "", True), *ANSWERS[1:]],
    ],
)
def test_any_other_answers_have_another_digest(other: list[tuple[str, str, bool]]) -> None:
    assert answers_digest(other) != answers_digest(ANSWERS)


def test_it_is_of_one_judge_only() -> None:
    CALIBRATION.require_judge(DIGEST)
    with pytest.raises(CompsecError, match=r"refusal 1 with digest a+, but .* judges with c+"):
        CALIBRATION.require_judge("c" * 64)


def test_the_digest_is_of_the_content_not_of_the_layout(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_calibration(path, CALIBRATION, confidence=0.9)
    data = json.loads(path.read_text())
    for arm in data["arms"]:
        del arm["summary"]
    assert parse_calibration(json.dumps(data), "c").digest == CALIBRATION.digest
    other = copy.deepcopy(data)
    other["arms"][0]["answers"] = "f" * 64
    assert parse_calibration(json.dumps(other), "c").digest != CALIBRATION.digest
    data["arms"][0]["strata"][0]["refused"] -= 1
    assert parse_calibration(json.dumps(data), "c").digest != CALIBRATION.digest


def _set(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for part in path[:-1]:
            data = data[part]
        data[path[-1]] = value

    return change


def _drop(*path: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for part in path[:-1]:
            data = data[part]
        del data[path[-1]]

    return change


FAULTS: list[tuple[Callable[[Any], None], str]] = [
    (_set("version", value=2), "has version 2, this release reads 1: upgrade"),
    (_set("version", value=True), "'version' must be a whole number"),
    (_set("schema", value="x"), "is no pytest-compsec/calibration file"),
    (_set("extra", value=1), "unknown key 'extra'"),
    (_drop("judge"), "the key 'judge' is missing"),
    (_set("judge", "digest", value="A" * 64), "judge: 'digest' is no sha256"),
    (_set("judge", "trust", value=1), "judge: unknown key 'trust'"),
    (_set("labels", value="b"), "'labels' is no sha256"),
    (_set("arms", value={}), "'arms' must be a list"),
    (_set("arms", 0, value=3), r"arms\[0\]: must be an object"),
    (_set("arms", 1, "arm", value=7), r"arms\[1\]: 'arm' must be text"),
    (_drop("arms", 0, "answers"), r"arms\[0\]: the key 'answers' is missing"),
    (_set("arms", 0, "answers", value="f"), r"arms\[0\]: 'answers' is no sha256"),
    (_set("arms", 0, "strata", value=[]), r"arms\[0\]: the strata of 'assistant' hold no answers"),
    (_set("arms", 0, "strata", 0, "refused", value=61), r"strata\[0\]: .*refused <= labelled"),
    (_set("arms", 0, "strata", 0, "labelled", value=60.0), "'labelled' must be a whole number"),
    (_set("arms", 0, "strata", 0, "labelled", value=True), "'labelled' must be a whole number"),
    (_set("arms", 0, "strata", 0, "population", value=-1), "population must be at least 0"),
    (_set("arms", 0, "strata", 0, "judged_refused", value=1), "must be true or false"),
    (_set("arms", 0, "strata", 0, "weight", value=1), "unknown key 'weight'"),
    (_drop("arms", 0, "strata", 0, "refused"), "the key 'refused' is missing"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=[text for _, text in FAULTS])
def test_faults_are_named_with_their_place(
    tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    data = copy.deepcopy(CALIBRATION.to_json())
    change(data)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=message) as caught:
        read_calibration(path)
    assert str(caught.value).startswith(f"{path}:1: ")
    assert "compsec calibrate" in str(caught.value)


def test_an_arm_or_a_key_given_twice_is_refused() -> None:
    data = CALIBRATION.to_json()
    data["arms"].append(data["arms"][0])
    with pytest.raises(ConfigError, match="given twice"):
        parse_calibration(json.dumps(data), "c")
    text = json.dumps(CALIBRATION.to_json()).replace('"labels"', '"version": 1, "labels"', 1)
    with pytest.raises(ConfigError, match="the key 'version' is given twice"):
        parse_calibration(text, "c")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": NaN}', "[" * 100_000])
def test_other_text_is_no_calibration(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^c:\d+: "):
        parse_calibration(text, "c")


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_calibration(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_calibration(tmp_path)
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_calibration(tmp_path / "latin.json")
