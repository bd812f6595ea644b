"""From a run's answers over people's labels to the judge's rates, as a user goes through it."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.commands.calibrate import run_calibrate
from pytest_compsec.errors import CompsecError
from pytest_compsec.judges.calibration import Calibration, read_calibration
from pytest_compsec.reports.labels import write_label_sheet
from pytest_compsec.statistics.misclassification import error_rates
from tests.unit.reports.test_labels import GARBAGE, check, row

Capture = pytest.CaptureFixture[str]
Rows = list[dict[str, str]]


def options(sheet: Path, **changes: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{"responses": str(sheet), "key": None, "output": None, "confidence": 0.95, **changes}
    )


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Rows) -> None:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(file.getvalue(), encoding="utf-8", newline="")


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    """200 harmful prompts. The text says what is true: of the original's 180 refusals the judge
    sees 171; of the 20 answers it takes 2 for refusals; the compressed arm is judged rightly."""
    evidence = []
    for i in range(200):
        refused = i < 180
        seen = (i >= 9) if refused else i >= 198
        text = f"{'NO' if refused else 'OK'} {i}"
        evidence.append(row(i, seen, refused, original=text, compressed=f"{text}!"))
    path = tmp_path / "answers.csv"
    write_label_sheet([check(evidence)], path, agreements=300, seed=1)
    return path


@pytest.fixture
def labelled(sheet: Path) -> Path:
    rows = read(sheet)
    for line in rows:
        line["refused"] = "yes" if line["response"].startswith("NO") else "no"
    write(sheet, rows)
    return sheet


def calibrated(sheet: Path) -> Calibration:
    return read_calibration(sheet.with_name("compsec.calibration.json"))


def test_labels_become_each_arms_rates(labelled: Path, capsys: Capture) -> None:
    assert run_calibrate(options(labelled)) == 0
    found = calibrated(labelled)
    original = found.for_arm("assistant", "harmful")
    assert original is not None
    rates = error_rates(original)
    assert rates.true_positive.estimate == pytest.approx(171 / 180)
    assert rates.false_positive.estimate == pytest.approx(2 / 20)
    found.require_judge("a" * 64)
    key = json.loads(labelled.with_name("answers.key.json").read_text())
    assert found.answers_of("assistant", "harmful") == key["answers"]["harmful"]["assistant"]
    assert found.answers_of("assistant-int8", "harmful") != found.answers_of("assistant", "harmful")
    out = capsys.readouterr().out
    assert "Judge refusal 1, 400 rows labelled" in out
    assert "assistant on harmful: 200 of 200 answers labelled" in out
    assert "true positive rate   0.950 (0.9" in out
    assert "false positive rate  0.100 (0.0" in out
    assert "assistant-int8 on harmful" in out
    assert "true positive rate   1.000" in out
    assert found.digest in out
    assert "warning" not in out


def test_a_sample_is_weighted_back(tmp_path: Path) -> None:
    # 900 agreed refusals, of which 90 are none in truth; all other answers are judged rightly.
    evidence = [row(i, True, True, original=f"{'OK' if i < 90 else 'NO'} {i}") for i in range(900)]
    evidence += [row(i, False, False, original=f"OK {i}") for i in range(900, 1000)]
    path = tmp_path / "answers.csv"
    write_label_sheet([check(evidence)], path, agreements=400, seed=2)
    rows = read(path)
    for line in rows:
        line["refused"] = "0" if line["response"].startswith("OK") else "1"
    write(path, rows)
    assert run_calibrate(options(path)) == 0
    rates = calibrated(path).for_arm("assistant", "harmful")
    assert rates is not None
    assert rates.labelled == 400
    errors = error_rates(rates)
    assert errors.false_positive.estimate == pytest.approx(90 / 190, abs=0.08)
    assert errors.true_positive.estimate == 1.0


def _relabel(change: Callable[[Rows], Any]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        rows = read(path)
        change(rows)
        write(path, rows)

    return apply


@pytest.mark.parametrize(
    ("yes", "no"),
    [("1", "0"), ("TRUE", "False"), ("Refused", "ANSWERED"), (" Yes ", "no")],
)
def test_every_spelling_means_the_same(labelled: Path, yes: str, no: str) -> None:
    assert run_calibrate(options(labelled)) == 0
    before = calibrated(labelled)
    _relabel(
        lambda rows: [line.update(refused=yes if line["refused"] == "yes" else no) for line in rows]
    )(labelled)
    assert run_calibrate(options(labelled)) == 0
    assert calibrated(labelled).arms == before.arms


def test_order_and_other_columns_do_not_matter(labelled: Path) -> None:
    assert run_calibrate(options(labelled)) == 0
    before = calibrated(labelled)
    rows = [
        {"refused": line["refused"], "who": "me", "row": line["row"]}
        for line in reversed(read(labelled))
    ]
    write(labelled, rows)
    labelled.write_bytes(b"\xef\xbb\xbf" + labelled.read_bytes())
    assert run_calibrate(options(labelled)) == 0
    assert calibrated(labelled).arms == before.arms


def test_key_output_and_confidence_can_be_named(labelled: Path, capsys: Capture) -> None:
    key = labelled.with_name("answers.key.json").rename(labelled.with_name("k.json"))
    out = labelled.with_name("out.json")
    assert run_calibrate(options(labelled, key=str(key), output=str(out), confidence=0.8)) == 0
    assert read_calibration(out).arms
    assert "at 80%" in capsys.readouterr().out


def test_a_few_empty_rows_are_listed(labelled: Path, capsys: Capture) -> None:
    _relabel(
        lambda rows: [line.update(refused="") for line in rows if "NO 50" in line["response"]]
    )(labelled)
    rows = read(labelled)
    gone = next(line for line in rows if line["response"] == "NO 60")
    write(labelled, [line for line in rows if line is not gone])
    assert run_calibrate(options(labelled)) == 0
    out = capsys.readouterr().out
    assert "note: 3 row(s) without a label: the rows at line" in out
    assert "1 row(s) that were removed from the sheet" in out
    rates = calibrated(labelled).for_arm("assistant", "harmful")
    assert rates is not None
    assert (rates.population, rates.labelled) == (200, 198)
    # 2 of 171: unknown, not like the others
    unknown = [stratum for stratum in rates.strata if not stratum.labelled]
    assert [(s.judged_refused, s.population) for s in unknown] == [(True, 2)]


def test_a_judge_no_better_than_a_coin_is_said_so(labelled: Path, capsys: Capture) -> None:
    _relabel(
        lambda rows: [
            line.update(refused="yes" if number % 2 else "no") for number, line in enumerate(rows)
        ]
    )(labelled)
    assert run_calibrate(options(labelled)) == 0
    out = capsys.readouterr().out
    assert (
        out.count("warning: at 95% confidence the labels cannot tell this judge from a coin") == 2
    )


def test_garbage_on_benign_prompts_needs_no_label(tmp_path: Path) -> None:
    evidence = [row(i, True, i >= 6, compressed=GARBAGE if i < 6 else f"x {i}") for i in range(60)]
    path = tmp_path / "answers.csv"
    write_label_sheet([check(evidence, check="over_refusal_preserved")], path, seed=1)
    _relabel(lambda rows: [line.update(refused="no") for line in rows])(path)
    assert run_calibrate(options(path)) == 0
    rates = calibrated(path).for_arm("assistant-int8", "harmful")
    assert rates is not None
    settled = [stratum for stratum in rates.strata if stratum.judged_refused]
    assert [(s.population, s.labelled, s.refused) for s in settled] == [(6, 6, 6)]


def _first(value: str) -> Callable[[Path], None]:
    return _relabel(lambda rows: rows[0].update(refused=value))


def _edit_key(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        key = path.with_name("answers.key.json")
        data = json.loads(key.read_text())
        change(data)
        key.write_text(json.dumps(data))

    return apply


def _fewer_refusals(rows: Rows) -> None:
    for line in rows:
        if line["response"].startswith("NO 1"):
            line["refused"] = ""


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unknown label": (_first("maybe"), r"answers\.csv:2: the label 'maybe' is none of yes/1"),
    "unknown row": (
        _relabel(lambda rows: rows[3].update(row="r123")),
        r"answers\.csv:5: the row 'r123' is not in the key",
    ),
    "two labels": (
        _relabel(lambda rows: rows.append({**rows[0], "refused": "no"})),
        r"answers\.csv:402: the row '\w+' has a label already, at line 2",
    ),
    "the same label twice": (
        _relabel(lambda rows: rows.append(dict(rows[0]))),
        r"answers\.csv:402: the row '\w+' has a label already, at line 2",
    ),
    "nothing labelled": (
        _relabel(lambda rows: [line.update(refused="") for line in rows]),
        r"answers\.csv: 0 of \d+ sampled answers are labelled \(.*Label the rows at line",
    ),
    "too few in one stratum": (
        _relabel(_fewer_refusals),
        r"of 171 sampled answers are labelled \(assistant on harmful, judged refused, arms agree\)",
    ),
    "no such column": (
        lambda path: write(path, [{"row": line["row"]} for line in read(path)]),
        r"answers\.csv:1: the column 'refused' is missing",
    ),
    "semicolons": (
        lambda path: path.write_text("row;refused\nr1;yes\n"),
        r"answers\.csv:1: columns are separated by ';'",
    ),
    "only a header": (
        lambda path: path.write_text("row,refused\n"),
        r"answers\.csv:1: the sheet holds no rows",
    ),
    "no sheet": (lambda path: path.unlink(), r"answers\.csv: no such file"),
    "no key": (
        lambda path: path.with_name("answers.key.json").unlink(),
        r"answers\.key\.json: no such file. .*--compsec-export-labels",
    ),
    "a key of another version": (
        _edit_key(lambda key: key.update(version=2)),
        "has version 2, this release reads 1",
    ),
    "a key with a row taken out": (
        _edit_key(lambda key: key["rows"].pop(next(iter(key["rows"])))),
        "do not add up",
    ),
    "a key with a stratum that is not there": (
        _edit_key(lambda key: next(iter(key["rows"].values()))[0].update(stratum=99)),
        "names a stratum that is not there",
    ),
    "a key with more sampled than there are": (
        _edit_key(lambda key: key["strata"][0].update(population=1)),
        "needs settled <= sampled <= population",
    ),
    "a key without the answers' digests": (
        _edit_key(lambda key: key.pop("answers")),
        "the key 'answers' is missing",
    ),
    "a key without one arm's answers": (
        _edit_key(lambda key: key["answers"]["harmful"].pop("assistant-int8")),
        r"answers\.harmful: the key 'assistant-int8' is missing",
    ),
    "a key with a digest that is none": (
        _edit_key(lambda key: key["answers"]["harmful"].update(assistant="x")),
        r"answers\.harmful: 'assistant' is no sha256",
    ),
    "a stratum twice": (
        _edit_key(
            lambda key: key["strata"].append({**key["strata"][0], "sampled": 0, "settled": 0})
        ),
        "labelled|given twice",
    ),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_are_named_and_nothing_is_written(
    labelled: Path, fault: Callable[[Path], None], message: str
) -> None:
    fault(labelled)
    with pytest.raises(CompsecError, match=message):
        run_calibrate(options(labelled))
    assert not labelled.with_name("compsec.calibration.json").exists()


@pytest.mark.parametrize("confidence", [0.5, 1, "x", float("nan")])
def test_a_confidence_that_is_none(labelled: Path, confidence: object) -> None:
    with pytest.raises(CompsecError, match=r"--confidence .* between 0.5 and 1"):
        run_calibrate(options(labelled, confidence=confidence))


def test_an_output_that_cannot_be_written(labelled: Path) -> None:
    with pytest.raises(CompsecError, match="cannot be written"):
        run_calibrate(options(labelled, output=str(labelled.with_name("none") / "c.json")))


def test_columns_that_were_sorted_apart_are_noticed(labelled: Path) -> None:
    """Planted: a spreadsheet sorts one column by itself; labels then stand at other texts."""
    rows = read(labelled)
    responses = sorted(line["response"] for line in rows)
    for line, response in zip(rows, responses, strict=True):
        line["response"] = response
    write(labelled, rows)
    with pytest.raises(CompsecError, match=r"answers\.csv:\d+: prompt and response of the row"):
        run_calibrate(options(labelled))


def test_space_that_a_spreadsheet_changed_does_not_matter(labelled: Path) -> None:
    rows = read(labelled)
    for line in rows:
        line["response"] = f" {line['response']} \r\n"
    write(labelled, rows)
    assert run_calibrate(options(labelled)) == 0


def test_texts_that_a_file_cannot_hold_are_still_their_rows_own(tmp_path: Path) -> None:
    """NUL and lone surrogates are replaced on the sheet; the row must know itself again."""
    hostile = ["NO \0 end", "NO \ud800 end", "=NO()", "'NO", "NO\r\nline", "-NO"]
    evidence = [
        row(i, True, True, original=hostile[i % 6] + str(i), compressed=f"NO {i}")
        for i in range(60)
    ]
    path = tmp_path / "answers.csv"
    write_label_sheet([check(evidence)], path, agreements=300, seed=1)
    rows = read(path)
    for line in rows:
        line["refused"] = "yes"
    write(path, rows)
    assert run_calibrate(options(path)) == 0
