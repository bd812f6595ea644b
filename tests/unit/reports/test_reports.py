"""What people see: one line per pair, failures first, and no text from a model in command."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_compsec.reports import kinds
from pytest_compsec.reports.failure import failure_text, spread
from pytest_compsec.reports.reading import read_report
from pytest_compsec.reports.terminal import summary_lines, table
from pytest_compsec.reports.text import one_line
from pytest_compsec.verdict import Evidence, Verdict
from tests.unit.reports.json_reports import report
from tests.unit.test_verdict import result


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\nc", "a ⏎ b ⏎ ⏎ c"),
        ("\x1b[31mred\x07", "[31mred"),
        ("safe\u202etxt.exe", "safetxt.exe"),
        ("##vso[task.setvariable]", "# #vso[task.setvariable]"),
        ("###[group]", "# # #[group]"),
        ("x" * 300, "x" * 159 + "…"),
        ("\ud800", ""),
        ("  \n ", ""),
    ],
)
def test_model_text_on_one_safe_line(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_a_long_answer_is_cut_without_reading_all_of_it() -> None:
    assert len(one_line("word " * 1_000_000)) == 160


def test_failure_text_prefixes_every_line_of_a_model() -> None:
    row = Evidence("id", "cyber", "p\n::error::x", "o\n##[command]", "c\n::set-env", True, False)
    text = failure_text([result(evidence=(row,))])
    for line in text.splitlines():
        assert not line.lstrip().startswith(("::", "##"))
    assert "      compressed | c ⏎ ::set-env" in text


def test_a_note_on_a_prompt_is_on_its_line_and_commands_nothing() -> None:
    note = "why\n::error::x\x1b[2J"
    row = Evidence("id", "cyber", "p", "o", "c", True, False, note)
    text = failure_text([result(evidence=(row,))])
    assert "  - id [cyber] (why ⏎ ::error::x[2J)" in text.splitlines()
    assert "\x1b" not in text


def test_prompts_shown_come_from_many_categories() -> None:
    rows = [Evidence(f"{c}{i}", c, "p", "o", "c", True, False) for c in "ab" for i in range(9)]
    assert [row.id for row in spread(rows, 4)] == ["a0", "b0", "a1", "b1"]
    assert len(spread(rows[:2], 5)) == 2


def test_failures_come_first_and_the_verdict_is_coloured() -> None:
    lines = table(
        [
            result(verdict=Verdict.PRESERVED, pair="a"),
            result(verdict=Verdict.REGRESSED, pair="b", expected=True),
            result(verdict=Verdict.REGRESSED, pair="c"),
            result(verdict=Verdict.NOT_MEASURED, pair="d", measurement=None),
        ],
        120,
    )
    assert [line.text.split()[0] for line in lines] == ["pair", "d", "c", "b", "a"]
    assert [line.colour for line in lines] == [None, "red", "red", "red", "green"]
    assert lines[3].text.endswith("REGRESSED (expected)")


def test_eighty_columns_are_enough_with_check_and_limit_as_headings() -> None:
    wide = table([result()], 120)
    assert max(len(line.text) for line in wide) > 80
    lines = table([result(pair="smollm2-pruned20", expected=True)], 80)
    assert lines[0].text == "safety_preserved, limit 2.0"
    assert max(len(line.text) for line in lines) <= 80
    assert lines[2].text.endswith("REGRESSED (expected)")


@pytest.mark.parametrize("width", [20, 30, 40])
def test_a_narrow_screen_gets_blocks_instead_of_broken_columns(width: int) -> None:
    lines = table([result()], width)
    assert lines[0].text.startswith("m-v")
    assert len(lines) >= 3
    assert max(len(line.text) for line in lines) <= width


def test_summary_says_what_is_cached_downgraded_and_written() -> None:
    lines = summary_lines(
        [result(answers=10, answers_cached=4)],
        width=120,
        integrity=["file x changed"],
        downgraded="1 INCONCLUSIVE did not fail",
        reports=["out.json"],
    )
    text = "\n".join(line.text for line in lines)
    assert "INTEGRITY: file x changed" in text
    assert "4 of 10 answers came from the cache" in text
    assert "1 INCONCLUSIVE did not fail" in text
    assert "report written: out.json" in text


def test_a_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "out.json"
    assert kinds.write(path, report(result())) == [path]
    before = path.read_text(encoding="utf-8")
    assert read_report(path).data["verdicts"]["REGRESSED"] == 1

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        kinds.write(path, report())
    assert path.read_text(encoding="utf-8") == before
    assert [item.name for item in path.parent.iterdir()] == ["out.json"]
