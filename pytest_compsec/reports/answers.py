"""A result without what the models wrote: for what is read by many (Markdown, JUnit, SARIF)."""

from __future__ import annotations

import dataclasses

from pytest_compsec.verdict import CheckResult

LEFT_OUT = "(left out: --compsec-show-answers)"


def without_answers(result: CheckResult) -> CheckResult:
    """The same result, :data:`LEFT_OUT` in place of every answer. Prompts stay."""
    return dataclasses.replace(
        result,
        evidence=tuple(
            dataclasses.replace(row, original=LEFT_OUT, compressed=LEFT_OUT)
            for row in result.evidence
        ),
    )


def has_answers(result: CheckResult) -> bool:
    """Whether a text made from this result may show what a model wrote."""
    return any(row.original or row.compressed for row in result.evidence)
