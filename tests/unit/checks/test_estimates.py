"""Several estimates, one verdict: nothing that is missing or unclear comes out PRESERVED."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from pytest_compsec.checks.estimates import (
    estimates_result,
    sentence,
    shared_confidence,
    verdict_of_all,
    verdict_of_bounds,
)
from pytest_compsec.checks.selection import SampledArguments
from pytest_compsec.findings_estimates import Difference, Estimate
from pytest_compsec.reports.failure import result_lines
from pytest_compsec.reports.terminal import cells, table
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.checks.fake_pair import FakePair


def estimate(verdict: Verdict | None = Verdict.PRESERVED, **fields: Any) -> Estimate:
    values: dict[str, Any] = {
        "name": "perplexity",
        "estimand": "relative increase",
        "unit": "relative",
        "sample": "document",
        "samples": 120,
        "method": "test",
        "original": 11.2,
        "compressed": 12.0,
        "change": 0.071,
        "lower": 0.05,
        "upper": 0.094,
        "limit": 0.1 if verdict else None,
        "verdict": str(verdict or ""),
    }
    return Estimate(**{**values, **fields})


@pytest.mark.parametrize(
    ("lower", "upper", "verdict"),
    [
        (-0.01, 0.02, Verdict.PRESERVED),
        (-0.01, 0.0201, Verdict.INCONCLUSIVE),
        (0.0201, 0.5, Verdict.REGRESSED),
        (0.02, 0.5, Verdict.INCONCLUSIVE),
        (None, 0.01, Verdict.NOT_MEASURED),
        (-0.01, None, Verdict.NOT_MEASURED),
        (-0.01, math.nan, Verdict.NOT_MEASURED),
        (math.nan, 0.01, Verdict.NOT_MEASURED),
        (-math.inf, 0.01, Verdict.PRESERVED),
    ],
)
def test_a_verdict_needs_both_bounds(
    lower: float | None, upper: float | None, verdict: Verdict
) -> None:
    assert verdict_of_bounds(lower, upper, 0.02) is verdict


def test_regression_among_several_needs_the_shared_confidence() -> None:
    assert shared_confidence(0.95, 5) == pytest.approx(0.99)
    assert verdict_of_bounds(0.03, 0.5, 0.02, lower_shared=0.01) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ([Verdict.PRESERVED, Verdict.PRESERVED], Verdict.PRESERVED),
        ([Verdict.PRESERVED, Verdict.INCONCLUSIVE], Verdict.INCONCLUSIVE),
        ([Verdict.NOT_MEASURED, Verdict.INCONCLUSIVE], Verdict.NOT_MEASURED),
        ([Verdict.NOT_MEASURED, Verdict.REGRESSED], Verdict.REGRESSED),
        ([None], Verdict.NOT_MEASURED),
        ([], Verdict.NOT_MEASURED),
    ],
)
def test_the_worst_decides(verdicts: list[Verdict | None], whole: Verdict) -> None:
    assert verdict_of_all([estimate(verdict) for verdict in verdicts]) is whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(SampledArguments):
    text: str = "prose"

    @property
    def margin_name(self) -> str:
        return "max_increase"


def result(*estimates: Estimate, **more: Any) -> CheckResult:
    pair: Any = FakePair([], [])
    return estimates_result(pair, Arguments(check="some", margin=0.1), "t", estimates, **more)


def test_the_result_holds_all_and_survives_json() -> None:
    found = result(estimate(), estimate(None, name="shown"), notes=("a note",))
    assert found.verdict is Verdict.PRESERVED
    assert found.summary == (
        "PRESERVED: model-variant: perplexity 11.2 -> 12, +7.1 % [+5.0, +9.4], "
        "limit 10 % (120 documents)"
    )
    assert found.notes[0].startswith("shown")
    assert found.arguments["max_increase"] == 0.1
    assert CheckResult.from_json(found.to_json()) == found


def test_values_that_are_no_shares_are_shown_as_they_are() -> None:
    text = sentence(estimate(original=None, compressed=None, unit="nats", limit=0.5))
    assert text == "perplexity +0.071 nats [+0.05, +0.094], limit 0.5 nats (120 documents)"


def test_what_is_missing_forbids_preserved() -> None:
    assert result(estimate(), missing=["no canaries"]).verdict is Verdict.NOT_MEASURED
    worse = result(estimate(Verdict.REGRESSED), missing=["no canaries"])
    assert worse.verdict is Verdict.REGRESSED
    assert result().verdict is Verdict.NOT_MEASURED


def test_a_given_verdict_cannot_make_it_better() -> None:
    bad = estimate(Verdict.REGRESSED)
    assert result(bad, verdict=Verdict.PRESERVED).verdict is Verdict.REGRESSED
    assert result(estimate(), verdict=Verdict.INCONCLUSIVE).verdict is Verdict.INCONCLUSIVE
    for open_one in (Verdict.INCONCLUSIVE, Verdict.NOT_MEASURED):
        assert result(estimate(open_one), verdict=Verdict.PRESERVED).verdict is open_one
    assert result(verdict=Verdict.PRESERVED).verdict is Verdict.NOT_MEASURED


def test_a_given_verdict_replaces_a_regression_of_no_worth() -> None:
    found = result(estimate(Verdict.REGRESSED), verdict=Verdict.NOT_MEASURED)
    assert found.verdict is Verdict.NOT_MEASURED


@pytest.mark.parametrize(
    "bounds",
    [{"lower": 0.11, "upper": 0.2}, {"upper": math.nan}, {"lower": math.nan, "upper": 0.05}],
)
def test_bounds_that_say_otherwise_forbid_preserved(bounds: dict[str, float]) -> None:
    wrong = estimate(Verdict.PRESERVED, **bounds)
    assert result(wrong).verdict is Verdict.NOT_MEASURED
    assert result(wrong, verdict=Verdict.PRESERVED).verdict is Verdict.NOT_MEASURED


def test_the_table_shows_the_estimate_that_decided() -> None:
    found = result(estimate(), estimate(Verdict.REGRESSED, name="accuracy", unit="points"))
    assert "accuracy +7.1 [+5.0, +9.4]" in cells(found)
    assert any("REGRESSED" in line.text for line in table([found], 200))


def test_differences_are_shown_with_both_sides_and_escaped() -> None:
    part = Difference("eos token", "</s>", "\x1b[31m<|end|>", "answers may not end")
    found = dataclasses.replace(result(), differences=(part,), verdict=Verdict.REGRESSED)
    lines = "\n".join(result_lines(found))
    assert "eos token: answers may not end" in lines
    assert "\x1b" not in lines
    assert "1 part differs" in cells(found)
    assert CheckResult.from_json(found.to_json()) == found
