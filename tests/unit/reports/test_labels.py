"""The sheet is blind, complete where the arms disagree, and safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.errors import CompsecError
from pytest_compsec.reports.label_cells import escape_cell, unescape_cell
from pytest_compsec.reports.labels import sample_sizes, write_label_sheet
from pytest_compsec.verdict import CheckResult, Evidence, Verdict

GARBAGE = "the the the the the the the the the the the the the the the the the the the the the"


def row(number: int, before: bool | None, after: bool | None, **texts: str) -> Evidence:
    return Evidence(
        id=f"p{number:04}",
        category="cyber",
        prompt=texts.get("prompt", f"prompt {number}"),
        original=texts.get("original", f"first answer {number}"),
        compressed=texts.get("compressed", f"second answer {number}"),
        original_safe=before,
        compressed_safe=after,
    )


def check(evidence: list[Evidence], **changes: Any) -> CheckResult:
    provenance = {
        "judge": {"name": "refusal", "version": "1", "digest": "a" * 64},
        "prompts": {"name": "harmful", "version": "2", "digest": "b" * 64},
        "original": {"name": "assistant"},
        "compressed": {"name": changes.pop("compressed", "assistant-int8")},
    }
    fields: dict[str, Any] = {
        "check": "safety_preserved",
        "pair": "assistant-int8",
        "test": "test_x",
        "verdict": Verdict.PRESERVED,
        "summary": "",
        "next_step": "",
        "limit": 0.02,
        "confidence": 0.95,
        "evidence": tuple(evidence),
        "provenance": provenance,
    }
    return CheckResult(**{**fields, **changes})


def cells(both: int, regressed: int, improved: int, neither: int) -> list[Evidence]:
    outcomes = (
        [(True, True)] * both
        + [(True, False)] * regressed
        + [(False, True)] * improved
        + [(False, False)] * neither
    )
    return [row(number, *outcome) for number, outcome in enumerate(outcomes)]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def strata(key: dict[str, Any]) -> dict[tuple[str, bool, bool], tuple[int, int]]:
    return {
        (item["arm"], item["judged_refused"], item["arms_agree"]): (
            item["population"],
            item["sampled"],
        )
        for item in key["strata"]
    }


def test_every_disagreement_and_a_sample_of_the_agreements(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    sheet = write_label_sheet([check(cells(400, 30, 7, 60))], path, agreements=100, seed=1)
    key = json.loads(sheet.key_path.read_text())
    assert sheet.key_path == tmp_path / "sheet.key.json"
    found = strata(key)
    assert found["assistant", True, False] == (30, 30)
    assert found["assistant", False, False] == (7, 7)
    assert found["assistant-int8", True, False] == (7, 7)
    assert found["assistant-int8", False, False] == (30, 30)
    for arm in ("assistant", "assistant-int8"):
        (many, most), (few, some) = found[arm, True, True], found[arm, False, True]
        assert (many, few) == (400, 60)
        assert most + some == 100
        assert most > some >= 10
    rows = read(path)
    assert len(rows) == sheet.rows == len(key["rows"]) == 2 * (37 + 100)
    assert (sheet.sampled, sheet.population) == (274, 994)
    assert {row["row"] for row in rows} == set(key["rows"])
    assert key["judge"] == {"name": "refusal", "version": "1", "digest": "a" * 64}
    assert key["prompts"] == {"harmful": {"version": "2", "digest": "b" * 64}}


def test_the_sheet_says_nothing_of_arm_or_judge(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    write_label_sheet([check(cells(40, 20, 0, 40))], path, agreements=80, seed=5)
    rows = read(path)
    assert list(rows[0]) == ["row", "prompt", "response", "refused"]
    assert {row["refused"] for row in rows} == {""}
    text = path.read_text().lower()
    assert not any(word in text for word in ("assistant", "int8", "refusal", "agree", "true"))
    # Shuffled: neither arm nor outcome can be read off the order.
    first = [row["response"].startswith("first") for row in rows]
    changes = sum(a != b for a, b in itertools.pairwise(first))
    assert 0.3 < changes / len(rows) < 0.7
    numbers = [int(row["prompt"].split()[1]) for row in rows]
    assert numbers != sorted(numbers)
    assert abs(sum(numbers[: len(numbers) // 2]) / sum(numbers) - 0.5) < 0.15


def test_one_seed_one_sheet(tmp_path: Path) -> None:
    results = [check(cells(300, 5, 5, 50))]
    for name, seed in (("a.csv", 1), ("b.csv", 1), ("c.csv", 2)):
        write_label_sheet(results, tmp_path / name, seed=seed)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert {r["prompt"] for r in read(tmp_path / "a.csv")} != {
        r["prompt"] for r in read(tmp_path / "c.csv")
    }


def test_agreements_are_drawn_with_equal_chances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    results = [check(cells(40, 0, 0, 0))]
    drawn: Counter[str] = Counter()
    for seed in range(400):
        write_label_sheet(results, tmp_path / "s.csv", agreements=10, seed=seed)
        drawn.update({row["prompt"] for row in read(tmp_path / "s.csv")})
    # 400 draws at 1/4: 100 expected, standard deviation 8.7
    assert len(drawn) == 40
    assert 60 < min(drawn.values()) <= max(drawn.values()) < 140


def test_both_answers_to_a_sampled_prompt_are_labelled(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    write_label_sheet([check(cells(500, 0, 0, 0))], path, agreements=50, seed=3)
    assert set(Counter(row["prompt"] for row in read(path)).values()) == {2}


def test_identical_texts_are_one_row_that_stands_for_both(tmp_path: Path) -> None:
    same = [row(i, True, True, original="No.", compressed="No.") for i in range(20)]
    path = tmp_path / "s.csv"
    sheet = write_label_sheet([check(same)], path, seed=1)
    key = json.loads(sheet.key_path.read_text())
    assert sheet.rows == 20
    assert sheet.sampled == 40
    for occurrences in key["rows"].values():
        assert [item["arm"] for item in occurrences] == ["assistant", "assistant-int8"]
        assert {item["check"] for item in occurrences} == {"safety_preserved"}
        assert {item["category"] for item in occurrences} == {"cyber"}


def test_an_original_that_serves_two_pairs_is_counted_once(tmp_path: Path) -> None:
    first = check(cells(50, 1, 0, 0))
    second = check(cells(51, 0, 0, 0), compressed="assistant-nf4", pair="assistant-nf4")
    sheet = write_label_sheet([second, first, second], tmp_path / "s.csv", seed=1)
    key = json.loads(sheet.key_path.read_text())
    found = strata(key)
    # The answer on which one pair disagrees is taken whole; the other pair does not hide it.
    assert found["assistant", True, False] == (1, 1)
    assert found["assistant", True, True] == (50, 50)
    assert found["assistant-nf4", True, True] == (51, 51)


def test_benign_prompts_turn_safe_into_answered(tmp_path: Path) -> None:
    evidence = [row(i, True, True) for i in range(12)] + [row(50, True, False)]
    evidence.append(row(51, True, False, compressed=GARBAGE))
    result = check(evidence, check="over_refusal_preserved")
    sheet = write_label_sheet([result], tmp_path / "s.csv", seed=1)
    key = json.loads(sheet.key_path.read_text())
    assert strata(key)["assistant-int8", True, False] == (2, 2)
    assert strata(key)["assistant", False, True] == (12, 12)
    # Garbage is no answer, whatever a person would call it: it is settled and not on the sheet.
    assert GARBAGE not in (tmp_path / "s.csv").read_text()
    assert [item["settled"] for item in key["strata"] if item["settled"]] == [1]


def answers_of(results: list[CheckResult], path: Path) -> dict[str, dict[str, str]]:
    sheet = write_label_sheet(results, path, agreements=0, seed=1)
    answers: dict[str, dict[str, str]] = json.loads(sheet.key_path.read_text())["answers"]
    return answers


def test_the_key_knows_all_answers_not_only_the_sampled_ones(tmp_path: Path) -> None:
    evidence = cells(300, 3, 2, 60)
    before = answers_of([check(evidence)], tmp_path / "a.csv")
    assert set(before) == {"harmful"}
    assert set(before["harmful"]) == {"assistant", "assistant-int8"}
    # the order of the prompts, another test of the same pair and unjudged rows change nothing
    more = [*reversed(evidence), row(900, None, True), row(901, True, None)]
    assert answers_of([check(more), check(evidence)], tmp_path / "b.csv") == before
    sampled = {line["prompt"] for line in read(tmp_path / "a.csv")}
    at = next(at for at, item in enumerate(evidence) if item.prompt not in sampled)
    evidence[at] = dataclasses.replace(evidence[at], compressed="another answer")
    after = answers_of([check(evidence)], tmp_path / "c.csv")
    assert after["harmful"]["assistant"] == before["harmful"]["assistant"]
    assert after["harmful"]["assistant-int8"] != before["harmful"]["assistant-int8"]


def test_the_answers_digest_survives_the_results_journey(tmp_path: Path) -> None:
    evidence = [row(i, True, True) for i in range(20)]
    evidence[7] = row(7, True, False, prompt="p\udfff", compressed="cut here: \ud83d")
    result = check(evidence)
    travelled = CheckResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert travelled.evidence[7].compressed != evidence[7].compressed
    before = answers_of([result], tmp_path / "a.csv")
    assert answers_of([travelled], tmp_path / "b.csv") == before


def test_unjudged_prompts_are_in_no_stratum(tmp_path: Path) -> None:
    evidence = [row(1, None, True), row(2, True, None), row(3, True, True)]
    sheet = write_label_sheet([check(evidence)], tmp_path / "s.csv", seed=1)
    assert sheet.population == 2


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "'quoted'",
        "''",
        "plain",
        "",
        " =1",
        'a "quote", a comma\nand\r\ntwo\rlines',
    ],
)
def test_cells_survive_the_sheet_and_are_no_formulas(tmp_path: Path, text: str) -> None:
    assert unescape_cell(escape_cell(text)) == text
    assert not escape_cell(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    path = tmp_path / "s.csv"
    write_label_sheet([check([row(1, True, False, compressed=text)])], path, seed=1)
    rows = read(path)
    assert len(rows) == 2
    assert text in [unescape_cell(row["response"]) for row in rows]


def test_text_that_no_file_can_hold_is_shown_escaped(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    write_label_sheet([check([row(1, True, False, compressed="a\0b\ud800")])], path, seed=1)
    assert "a\N{SYMBOL FOR NULL}b\\ud800" in [row["response"] for row in read(path)]


def test_random_texts_keep_one_row_each(tmp_path: Path) -> None:
    chance = random.Random(4)
    alphabet = "=+-@'\",;\r\n\t ab\0é"
    evidence = [
        row(i, True, False, compressed="".join(chance.choices(alphabet, k=9))) for i in range(200)
    ]
    path = tmp_path / "s.csv"
    sheet = write_label_sheet([check(evidence)], path, seed=1)
    records = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    assert len(records) - 1 == sheet.rows == 400
    assert {len(record) for record in records} == {4}


@pytest.mark.parametrize(
    ("populations", "total", "sizes"),
    [
        ([900, 100], 100, [75, 25]),
        ([900, 4], 100, [96, 4]),
        ([900, 100], 5, [10, 10]),
        ([3, 2], 100, [3, 2]),
        ([500, 0], 50, [50, 0]),
        ([], 50, []),
    ],
)
def test_sample_sizes(populations: list[int], total: int, sizes: list[int]) -> None:
    assert sample_sizes(populations, total) == sizes


def _other_judge() -> CheckResult:
    result = check(cells(5, 0, 0, 0))
    judge = {"name": "keywords", "version": "3", "digest": "c" * 64}
    return dataclasses.replace(result, provenance={**result.provenance, "judge": judge})


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "nothing to label"),
        ([check([])], "nothing to label"),
        ([check(cells(5, 0, 0, 0), check="backdoor_removed")], "nothing to label"),
        ([check([row(1, None, None)])], "nothing to label"),
        ([check(cells(5, 0, 0, 0)), _other_judge()], "several judges"),
        ([check(cells(5, 0, 0, 0), provenance={})], "does not say the name of its judge"),
        (
            [check(cells(5, 0, 0, 0)), check(cells(0, 0, 0, 5), check="over_refusal_preserved")],
            None,
        ),
        (
            [check(cells(5, 0, 0, 0)), check(cells(5, 0, 0, 0), check="over_refusal_preserved")],
            "differently",
        ),
    ],
)
def test_what_cannot_be_exported(
    tmp_path: Path, results: list[CheckResult], message: str | None
) -> None:
    path = tmp_path / "s.csv"
    if message is None:
        assert write_label_sheet(results, path, seed=1).rows == 10
        return
    with pytest.raises(CompsecError, match=message):
        write_label_sheet(results, path, seed=1)
    assert list(tmp_path.iterdir()) == []


def test_evidence_that_was_cut_is_refused(tmp_path: Path) -> None:
    from tests.unit.test_verdict import result

    cut = check(cells(5, 0, 0, 0), measurement=result().measurement)
    with pytest.raises(CompsecError, match="2 prompts were measured but 5 judged answers"):
        write_label_sheet([cut], tmp_path / "s.csv", seed=1)
