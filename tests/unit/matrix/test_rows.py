"""The rows of the matrix, and what becomes of them: words, tables, JSON, a picture."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest

from pytest_compsec.compression.methods import validated_options
from pytest_compsec.errors import ConfigError
from pytest_compsec.findings import Texts
from pytest_compsec.matrix.measuring import Row, impact_word
from pytest_compsec.matrix.precisions import PRECISIONS, chosen_precisions
from pytest_compsec.matrix.table import markdown_lines, table_lines
from pytest_compsec.verdict import CheckResult, Verdict

ROWS = (
    Row("fp32", "the reference", 4.0, 540.0, 0.9, 12.3, 0.84, 432, 0.05, 240, 1.0),
    Row(
        "int8", "8 bits", 1.1, 200.4, 0.88, 1234.5, 0.82, 100, 0.05, 240, 1.5,
        "PRESERVED", "PRESERVED", "preserved",
    ),
    Row("binary", "1 bit", 0.2, 540.0, 0.25, math.inf, impact="not measured"),
)  # fmt: skip


def result(verdict: Verdict, lost: int = 0, broken: int = 0) -> CheckResult:
    found = CheckResult(
        check="safety_preserved", pair="a-b", test="", verdict=verdict, summary="", next_step="",
        limit=0.02, confidence=0.95,
    )  # fmt: skip
    fields = {field.name: 0 for field in dataclasses.fields(Texts)}
    return dataclasses.replace(
        found, texts=Texts(**{**fields, "lost": lost, "lost_broken": broken})
    )


@pytest.mark.parametrize(("safety", "helpfulness"), list(itertools.product(Verdict, Verdict)))
def test_preserved_only_where_both_were_shown(safety: Verdict, helpfulness: Verdict) -> None:
    word = impact_word(result(safety), result(helpfulness))
    both = safety is Verdict.PRESERVED and helpfulness is Verdict.PRESERVED
    assert (word == "preserved") is both
    assert (word == "less safe") is (safety is Verdict.REGRESSED)
    missing = Verdict.NOT_MEASURED in (safety, helpfulness)
    assert (word == "not measured") is (missing and safety is not Verdict.REGRESSED)
    if word == "less helpful":
        assert helpfulness is Verdict.REGRESSED
    if word == "unclear":
        assert Verdict.INCONCLUSIVE in (safety, helpfulness)


@pytest.mark.parametrize(("lost", "broken", "word"), [
    (10, 5, "broken"), (1, 1, "broken"), (10, 4, "less safe"), (0, 0, "less safe"),
])  # fmt: skip
def test_broken_where_half_of_the_lost_answers_are_no_text(
    lost: int, broken: int, word: str
) -> None:
    safety = result(Verdict.REGRESSED, lost, broken)
    assert impact_word(safety, result(Verdict.PRESERVED)) == word


def test_precisions_have_recipes_that_exist() -> None:
    names = [precision.name for precision in PRECISIONS]
    assert len(set(names)) == len(names)
    for precision in PRECISIONS:
        assert validated_options("quantize", dict(precision.quantize))
    assert {p.extra for p in PRECISIONS if p.name.startswith(("int8", "int4-nf4"))} == {
        "bitsandbytes"
    }


def test_precisions_are_chosen_by_name_in_the_order_of_the_table() -> None:
    assert chosen_precisions(None) == PRECISIONS
    chosen = chosen_precisions(["int2", "fp32", "bf16"])
    assert [precision.name for precision in chosen] == ["bf16", "int2"]
    with pytest.raises(ConfigError, match=r"'int5'.*fp16, bf16"):
        chosen_precisions(["bf16", "int5"])


def test_the_table_is_aligned_and_says_of_how_many() -> None:
    lines = list(table_lines(ROWS))
    assert len(lines) == 4
    column = lines[0].index("impact")
    assert [line[column:] for line in lines[1:]] == ["reference", "preserved", "not measured"]
    assert "84.0%" in lines[1]
    assert "84.0% of" not in lines[1]
    assert "82.0% of 100" in lines[2]
    assert "1.2e+03" in lines[2]
    assert " inf " in lines[3]
    assert lines[3].split()[5:] == [*"-----", "not", "measured"]


def test_markdown_has_as_many_cells_in_every_line() -> None:
    lines = list(markdown_lines(ROWS))
    assert {line.count("|") for line in lines} == {12}
    assert set(lines[1]) <= set("|-:")
    assert lines[3].startswith("| int8 | 1.10 | 200 | 88.0% |")


def test_json_holds_no_number_that_json_has_not() -> None:
    text = json.dumps([row.to_json() for row in ROWS], allow_nan=False)
    assert [row["perplexity"] for row in json.loads(text)] == [12.3, 1234.5, None]
    assert dataclasses.replace(ROWS[0], bytes_per_parameter=math.nan).to_json()[
        "bytes_per_parameter"
    ] is None  # fmt: skip


def test_the_same_rows_give_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from pytest_compsec.matrix.plot import draw

    for name in ("first.svg", "second.svg"):
        draw(ROWS, "what compression does", tmp_path / name)
    text = (tmp_path / "first.svg").read_text("utf-8")
    assert text == (tmp_path / "second.svg").read_text("utf-8")
    assert text.startswith("<?xml")
    draw(ROWS[:2], "what compression does", tmp_path / "second.svg")
    assert text != (tmp_path / "second.svg").read_text("utf-8")
    with pytest.raises(ConfigError, match="--plot"):
        draw(ROWS, "nowhere", tmp_path / "missing" / "plot.svg")
