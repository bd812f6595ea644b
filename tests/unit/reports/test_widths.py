"""The section at the end of a run fits the screen, and no number is torn apart."""

from __future__ import annotations

import dataclasses
import re

import pytest

from pytest_compsec.findings import CategoryFinding, Stopping
from pytest_compsec.findings_estimates import Estimate
from pytest_compsec.reports import wrapping
from pytest_compsec.reports.terminal import Line, fitted, summary_lines
from pytest_compsec.reports.wrapping import wrapped
from pytest_compsec.verdict import CheckResult, Measurement, Verdict
from tests.unit.test_verdict import result

WIDTHS = (60, 80, 100, 200)


def measured(regressed: int, improved: int, n: int = 1864) -> Measurement:
    return Measurement(
        n=n,
        both=n - regressed - improved,
        improved=improved,
        regressed=regressed,
        neither=0,
        original_rate=0.998,
        compressed_rate=0.123,
        degradation=(regressed - improved) / n,
        interval=(-0.9876, 0.9876),
        preserved_pvalue=1.0,
        regressed_pvalue=0.01,
    )


def many() -> list[CheckResult]:
    """One of every kind, with long names and long numbers."""
    categories = tuple(
        CategoryFinding(f"{name} " * 4, 800, 10, 200, 90, 0.5, -0.9876, 0.9876, 1.0, 0.1)
        for name in ("dangerous-advice", "illegal-trade")
    )
    estimate = Estimate(
        *("perplexity on the built-in prose", "x", "nats", "text", 160, "bootstrap"),
        original=1.2345,
        compressed=12.3456,
        change=11.1111,
        lower=10.1111,
        upper=12.1111,
        limit=0.05,
        verdict="REGRESSED",
    )
    long = "assistant-with-a-long-name-compressed-to-four-bits"
    return [
        result(measurement=measured(812, 8), pair=long, categories=categories, answers=3728),
        result(
            measurement=measured(12, 8, 160),
            pair="m-int8",
            check="edge_cases_preserved",
            verdict=Verdict.INCONCLUSIVE,
            expected=True,
            arguments={"prompts": "a-set-of-my-own"},
            stopping=Stopping(160, 1864, "regressed", 41.0, 40.0),
        ),
        result(
            measurement=None,
            verdict=Verdict.NOT_MEASURED,
            summary="NOT_MEASURED: m-int8: 12 of 1864 prompts could not be judged, which is 0.6 %",
        ),
        result(measurement=None, check="capability_preserved", estimates=(estimate,)),
        result(measurement=measured(0, 0), verdict=Verdict.PRESERVED, pair="m-nf4"),
    ]


def shown(width: int) -> list[Line]:
    return summary_lines(
        many(),
        width=width,
        integrity=["./model.safetensors changed since it was pinned\nsize 2.5 GiB, now 12 of it"],
        downgraded="1 INCONCLUSIVE did not fail the run, because compsec_inconclusive = warn",
        reports=["out.json"],
        categories=True,
    )


def torn(line: Line) -> bool:
    """Whether the line begins or ends within a number, its unit or its interval."""
    begins = re.match(r"\s*(%|of \d|\]|GiB)", line.text)
    ends = re.search(r"\d of$", line.text)
    return bool(begins or ends) or line.text.count("[") != line.text.count("]")


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(width: int) -> None:
    for line in shown(width):
        assert len(line.text) <= width


@pytest.mark.parametrize("width", [*WIDTHS, 40, 73])
def test_no_number_is_cut_or_taken_from_its_unit(width: int) -> None:
    lines = shown(width)
    assert not [line.text for line in lines if torn(line)]
    text, whole = ("\n".join(line.text for line in found) for found in (lines, shown(2_000)))
    for number in ("[-98.8, +98.8]", "+11.1 nats", "[+10.1, +12.1]", "12 of 1864", "0.6 %"):
        assert number in whole
        assert text.count(number) == whole.count(number)


def test_a_number_torn_apart_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted fault: lines end wherever there is a space."""
    monkeypatch.setattr(wrapping, "_TOGETHER", re.compile("(?!)"))
    assert [line for width in range(40, 100) for line in shown(width) if torn(line)]


def test_verdicts_are_all_there_at_every_width() -> None:
    for width in WIDTHS:
        lines = shown(width)
        text = [line.text for line in lines]
        for verdict in ("REGRESSED", "INCONCLUSIVE (expected)", "NOT_MEASURED", "PRESERVED"):
            found = [line for line in lines if line.text.endswith(verdict) and line.colour]
            assert found, (width, verdict, text)
            assert all(line.coloured <= len(line.text) for line in found)


def test_brief_leaves_out_explanations_and_no_result() -> None:
    arguments = {"width": 100, "integrity": ["x"], "downgraded": "1 d", "reports": ["out.json"]}
    whole = [line.text for line in summary_lines(many(), **arguments)]  # type: ignore[arg-type]
    brief = [
        line.text
        for line in summary_lines(many(), **arguments, brief=True)  # type: ignore[arg-type]
    ]
    assert [text for text in whole if text.startswith(("degradation and", "PRESERVED and"))]
    assert not [text for text in brief if text.startswith(("degradation and", "PRESERVED and"))]
    for needed in ("INTEGRITY: x", "1 d", "report written: out.json"):
        assert needed in brief
    assert [text for text in brief if text.endswith("answers came from the cache")]
    assert whole[-8:] == brief[-8:]


def test_the_colour_stays_on_the_verdict_of_a_line_in_pieces() -> None:
    line = Line("a-pair-with-a-name  REGRESSED (expected)", "red", 20)
    pieces = fitted(line, 24)
    assert [piece.text.strip() for piece in pieces] == [
        "a-pair-with-a-name",
        "REGRESSED (expected)",
    ]
    assert (pieces[0].colour, pieces[1].colour, pieces[1].coloured) == (None, "red", 20)
    everywhere = fitted(dataclasses.replace(line, coloured=len(line.text)), 24)
    assert {piece.colour for piece in everywhere} == {"red"}


def test_a_path_or_digest_is_not_broken() -> None:
    digest = "a" * 64
    assert f"  {digest}" in wrapped(f"expected {digest}", 30)
    assert wrapped("", 10) == [""]
