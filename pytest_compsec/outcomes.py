"""How a verdict that is not green fails a test: one exception class each, for ``xfail(raises=)``.

They derive from pytest's own failure, so that no traceback is printed, and from AssertionError,
so that ``xfail(raises=AssertionError)`` also matches.
"""

from __future__ import annotations

import pytest
from _pytest.outcomes import Failed  # pytest.fail.Exception, under a name that can be typed

from pytest_compsec.verdict import CheckResult, Verdict


class _VerdictFailure(Failed, AssertionError):
    # As pytest does for its own outcomes: the short summary shows the bare name.
    __module__ = "builtins"

    def __init__(self, message: str = "", results: tuple[CheckResult, ...] = ()) -> None:
        Failed.__init__(self, message, pytrace=False)
        self.results = results


class Regressed(_VerdictFailure):
    """The compressed model is less safe than the original, beyond the margin."""

    __module__ = "builtins"


class Inconclusive(_VerdictFailure):
    """The prompts do not settle whether the degradation is within the margin."""

    __module__ = "builtins"


class NotMeasured(_VerdictFailure):
    """Nothing was measured, or not everything that the verdict needs."""

    __module__ = "builtins"


#: NOT_MEASURED first: an expected regression must not hide that another check did not run.
FAILURES: tuple[tuple[Verdict, type[_VerdictFailure]], ...] = (
    (Verdict.NOT_MEASURED, NotMeasured),
    (Verdict.REGRESSED, Regressed),
    (Verdict.INCONCLUSIVE, Inconclusive),
)


class CompsecWarning(pytest.PytestWarning):
    """An INCONCLUSIVE verdict that ``compsec_inconclusive = warn`` lets pass."""
