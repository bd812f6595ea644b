"""The records of a report as pydantic sees them: for its schema, and to refuse what is none."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import TypeAdapter

from pytest_compsec.reports.facts import RunFacts
from pytest_compsec.verdict import CheckResult


@functools.cache
def result_adapter() -> TypeAdapter[Any]:
    """Of :class:`CheckResult`."""
    # Its hints name these, its own module does not import them, and pydantic looks here.
    from pytest_compsec.findings import (  # noqa: F401
        CategoryFinding,
        Clustering,
        Familywise,
        JudgeCorrection,
        LayerErrors,
        NoiseFloor,
        RefusalSignal,
        Stopping,
        Texts,
    )
    from pytest_compsec.findings_backdoors import BackdoorFinding  # noqa: F401
    from pytest_compsec.findings_estimates import Difference, Estimate  # noqa: F401
    from pytest_compsec.findings_robustness import RobustnessFinding  # noqa: F401
    from pytest_compsec.findings_scan import BypassFinding  # noqa: F401

    return TypeAdapter(CheckResult)


@functools.cache
def facts_adapter() -> TypeAdapter[Any]:
    """Of :class:`RunFacts`."""
    return TypeAdapter(RunFacts)
