"""Labels of the very answers under test count for more, and only those: from a result over people's
labels to the corrected verdict, and back to the cautious one where a single answer is another."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.checks.over_refusal_preserved import check_over_refusal_preserved
from pytest_compsec.checks.safety_preserved import check_safety_preserved
from pytest_compsec.commands.calibrate import run_calibrate
from pytest_compsec.findings import JudgeCorrection
from pytest_compsec.generation.settings import Answer
from pytest_compsec.judges.calibration import read_calibration
from pytest_compsec.models.pair import PairCalibration
from pytest_compsec.reports.labels import write_label_sheet
from pytest_compsec.suite import MeasuringOptions
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.checks.fake_pair import ANSWER, GARBAGE, REFUSAL, FakeJudge, FakePair, answers

N = 800
SAFE = answers((N, REFUSAL))


def checked(pair: FakePair, labels: PairCalibration | None = None) -> CheckResult:
    pair.rates = labels
    return check_safety_preserved(pair)  # type: ignore[arg-type]


def correction(result: CheckResult) -> JudgeCorrection:
    assert result.judge_correction is not None
    return result.judge_correction


def labelled(result: CheckResult, folder: Path) -> PairCalibration:
    """What ``compsec calibrate`` makes of the result's sheet, labelled without a mistake."""
    sheet = folder / "answers.csv"
    write_label_sheet([result], sheet, agreements=400, seed=1)
    with sheet.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["refused"] = "yes" if row["response"].startswith(REFUSAL) else "no"
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    run_calibrate(argparse.Namespace(responses=sheet, key=None, output=None, confidence=0.95))
    found = read_calibration(folder / "compsec.calibration.json")
    arms = [str(result.provenance[arm]["name"]) for arm in ("original", "compressed")]
    rates = [found.arms["set", arm] for arm in arms]
    digests = [found.answers["set", arm] for arm in arms]
    return PairCalibration(rates[0], rates[1], found.digest, digests[0], digests[1])


def test_an_original_that_refuses_everything_is_preserved_by_labels_of_its_answers(
    tmp_path: Path,
) -> None:
    labels = labelled(checked(FakePair(SAFE, SAFE)), tmp_path)
    result = checked(FakePair(SAFE, SAFE), labels)
    assert result.verdict is Verdict.PRESERVED
    assert correction(result).same_answers
    assert 0 < correction(result).upper < 0.02
    assert any(note.endswith("), labels of these very answers.") for note in result.notes)
    travelled = CheckResult.from_json(json.loads(json.dumps(result.to_json())))
    assert travelled.judge_correction == result.judge_correction


@pytest.mark.parametrize("arm", ["original", "compressed"])
def test_with_one_other_answer_the_labels_are_of_another_run(tmp_path: Path, arm: str) -> None:
    """It is still a refusal, so that every count is the same."""
    labels = labelled(checked(FakePair(SAFE, SAFE)), tmp_path)
    other = [*SAFE[:-1], Answer(f"{REFUSAL} Sorry.", 5, "stop")]
    pair = FakePair(other, SAFE) if arm == "original" else FakePair(SAFE, other)
    result = checked(pair, labels)
    assert result.measurement is not None
    assert result.measurement.both == N
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.withheld[0].startswith("judge:")
    assert not correction(result).same_answers
    assert not any("very answers" in note for note in result.notes)


@dataclasses.dataclass
class JudgeOfNumbers(FakeJudge):
    """Everything is a refusal but the answer that ends in ``number``."""

    number: str = ""

    def refusals(self, prompts: Any, responses: Any) -> list[bool | None]:
        return [not response.endswith(self.number) for response in responses]


def test_the_same_texts_judged_otherwise_are_other_answers(tmp_path: Path) -> None:
    """One refusal more and one less: the counts agree, the outcomes do not."""
    texts = [Answer(f"{REFUSAL} {at:03}", 5, "stop") for at in range(N)]
    pair = FakePair(texts, texts)
    pair.judge = JudgeOfNumbers(number="003")
    labels = labelled(checked(pair), tmp_path)
    assert correction(checked(pair, labels)).same_answers
    pair.judge = JudgeOfNumbers(number="005")
    assert not correction(checked(pair, labels)).same_answers


def test_strata_that_do_not_add_up_to_the_answers_are_not_believed(tmp_path: Path) -> None:
    labels = labelled(checked(FakePair(SAFE, SAFE)), tmp_path)
    (stratum,) = labels.original.strata
    more = dataclasses.replace(stratum, population=stratum.population + 1)
    edited = dataclasses.replace(labels.original, strata=(more,))
    result = checked(FakePair(SAFE, SAFE), dataclasses.replace(labels, original=edited))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert not correction(result).same_answers


def test_labels_of_all_answers_are_not_of_the_part_asked_before_an_early_stop(
    tmp_path: Path,
) -> None:
    before, after = answers((100, ANSWER), (700, REFUSAL)), answers((500, ANSWER), (300, REFUSAL))
    labels = labelled(checked(FakePair(before, after)), tmp_path)
    assert correction(checked(FakePair(before, after), labels)).same_answers
    early = checked(FakePair(before, after, options=MeasuringOptions(full=False)), labels)
    assert early.verdict is Verdict.REGRESSED
    assert early.stopping is not None
    assert not correction(early).same_answers


def test_rows_that_could_not_be_judged_are_left_out_on_both_sides(tmp_path: Path) -> None:
    cut = [Answer("Let me think", 5, "length", in_reasoning=True), *SAFE[1:]]
    first = checked(FakePair(SAFE, cut))
    assert first.unmeasured == 1
    labels = labelled(first, tmp_path)
    assert labels.original.population == N - 1
    assert correction(checked(FakePair(SAFE, cut), labels)).same_answers
    assert not correction(checked(FakePair(SAFE, SAFE), labels)).same_answers


def test_garbage_on_benign_prompts_counts_as_no_answer_on_both_sides(tmp_path: Path) -> None:
    helpful = answers((N, ANSWER))
    pair = FakePair(helpful, [*answers((6, GARBAGE)), *helpful[6:]])
    labels = labelled(check_over_refusal_preserved(pair), tmp_path)  # type: ignore[arg-type]
    assert labels.compressed.judged_refused == 6
    pair.rates = labels
    result = check_over_refusal_preserved(pair)  # type: ignore[arg-type]
    assert correction(result).same_answers
    assert correction(result).estimate == pytest.approx(6 / N)
