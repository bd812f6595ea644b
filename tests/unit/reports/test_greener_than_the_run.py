"""No report looks better than the run was: what an xfail lets pass, what was chosen, what is no
text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.reports.html.decision import decide
from pytest_compsec.reports.html.overview import overview_of
from pytest_compsec.reports.inert import sentence
from pytest_compsec.reports.json_report import files as json_files
from pytest_compsec.reports.markdown import markdown_text
from pytest_compsec.reports.reading import read_report
from pytest_compsec.reports.sarif import files as sarif_files
from pytest_compsec.reports.sarif import sarif_data
from pytest_compsec.reports.terminal import cells
from pytest_compsec.verdict import Verdict
from tests.unit.reports.hostile_reports import collected, preserved, report
from tests.unit.test_verdict import result

LOST = result(expected=True)
UNSETTLED = result(verdict=Verdict.INCONCLUSIVE, expected=True)
#: Of a test whose body fails, as its xfail says: nobody asked the models anything.
UNMEASURED = result(verdict=Verdict.NOT_MEASURED, expected=True, measurement=None)


@pytest.mark.parametrize(
    ("results", "changes", "begins"),
    [
        ([UNMEASURED], {}, "Not decided: not everything was measured"),
        ([UNSETTLED, preserved()], {}, "Not decided: the evidence does not settle it"),
        ([LOST, UNSETTLED], {}, "Not decided: the evidence does not settle it"),
        ([LOST], {"interrupted": True, "exit_status": 2}, "Not decided: the run was stopped"),
        ([LOST], {"checks": (collected("deselected"),)}, "Not decided: 1 more was left out"),
        ([LOST], {"exit_status": 1}, "Not decided: the run failed for another reason"),
        ([preserved()], {"exit_status": 3}, "Not decided: the run failed for another reason"),
    ],
)
def test_what_an_xfail_lets_pass_is_not_called_preserved(
    results: list[Any], changes: dict[str, Any], begins: str
) -> None:
    text = markdown_text(report(*results, **{"exit_status": 0, **changes}))
    assert text.startswith(f"**{begins}")


def test_what_is_preserved_was_expected_by_no_xfail() -> None:
    """One test with two checks, and an xfail that names the loss of one of them."""
    both = (LOST, preserved(expected=True))
    assert "1 of them let pass by an xfail" in markdown_text(report(*both, exit_status=0))
    assert [cells(one)[-1] for one in both] == ["REGRESSED (expected)", "PRESERVED"]
    (row,) = overview_of(report(*both)).rows
    assert [(one.words, one.expected) for cell in row.cells for one in cell] == [
        ("REGRESSED", True),
        ("PRESERVED", False),
    ]


def test_nobody_accepts_not_to_know() -> None:
    """A suppressed finding closes its alert in code scanning."""

    def why(one: Any, **settings: str) -> list[str]:
        run = sarif_data(report(one, settings=settings))["runs"][0]
        suppressed = run["results"][0].get("suppressions", [])
        return [found["justification"] for found in suppressed]

    assert why(UNMEASURED) == []
    assert why(LOST) == ["the test expects this verdict (xfail)"]
    assert why(UNSETTLED) == ["the test expects this verdict (xfail)"]
    assert why(UNSETTLED, inconclusive="xfail") == [
        "INCONCLUSIVE fails no test here (ini compsec_inconclusive = xfail)"
    ]


def test_what_was_chosen_is_told_beside_the_decision() -> None:
    """A node id collects nothing else, so nothing was left out that could be counted."""
    chosen = report(preserved(), exit_status=0, selection=("test_x.py::test_y",))
    assert "test_x.py::test_y" in " ".join(decide(chosen).sentences)
    lead = markdown_text(chosen).partition("\n| ")[0]
    assert "Tests were chosen with <code>test" in lead
    assert "chosen" not in markdown_text(report(preserved(), exit_status=0))


@pytest.mark.parametrize("files", [json_files, sarif_files])
def test_bytes_that_are_no_text_leave_valid_json(files: Any, tmp_path: Path) -> None:
    """An argument may be ``-k`` with a byte that is no UTF-8; Python has it as a surrogate."""
    made = report(preserved(), command=("-k", "\udcff"), selection=("-k \udcff",))
    ((path, text),) = files(tmp_path / "out.json", made)
    json.dumps(json.loads(text), ensure_ascii=False).encode()  # fails at a lone surrogate
    path.write_text(text, encoding="utf-8")
    if files is json_files:
        assert read_report(path).facts.command == ("-k", "\\udcff")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("see GH-26", "GH-26"),
        ("commit a5c3785ed8d6a35868bc169f07e40e889087fd2e", "a5c3785ed8"),
        ("at https://evil.example", "https&#58;//evil"),
        ("at www.evil.example", "www&#46;evil"),
        ("great :tada:", "&#58;tada&#58;"),
    ],
)
def test_what_github_links_after_rendering_is_broken(text: str, whole: str) -> None:
    assert whole not in sentence(text)
    assert sentence(text).replace("\u2060", "").count(whole) == 1


@pytest.mark.parametrize("text", ["200 of 1234567 prompts", "at 12 30", f"sha256 {'0a' * 32}"])
def test_numbers_and_digests_can_be_copied(text: str) -> None:
    assert sentence(text) == text
