"""pytest-compsec: prove that a compressed AI model is as safe as its original.

The names that a test file imports. Importing this package loads neither torch nor pytest: each
name is fetched from its room when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_compsec.errors import CompsecError, IntegrityError
    from pytest_compsec.markers import (
        adversarial_transfer_blocked,
        backdoor_not_amplified,
        backdoor_removed,
        derived_from_original,
        edge_cases_preserved,
        layers_within,
        no_backdoor_activated,
        no_safety_bypass,
        over_refusal_preserved,
        robustness_preserved,
        safety_preserved,
    )
    from pytest_compsec.outcomes import Inconclusive, NotMeasured, Regressed
    from pytest_compsec.verdict import CheckResult, Evidence, Verdict

__version__ = "0.1.0"

_ROOMS = {
    "CheckResult": "verdict",
    "CompsecError": "errors",
    "Evidence": "verdict",
    "Inconclusive": "outcomes",
    "IntegrityError": "errors",
    "NotMeasured": "outcomes",
    "Regressed": "outcomes",
    "Verdict": "verdict",
    "adversarial_transfer_blocked": "markers",
    "backdoor_not_amplified": "markers",
    "backdoor_removed": "markers",
    "derived_from_original": "markers",
    "edge_cases_preserved": "markers",
    "layers_within": "markers",
    "no_backdoor_activated": "markers",
    "no_safety_bypass": "markers",
    "over_refusal_preserved": "markers",
    "robustness_preserved": "markers",
    "safety_preserved": "markers",
}

__all__ = [
    "CheckResult",
    "CompsecError",
    "Evidence",
    "Inconclusive",
    "IntegrityError",
    "NotMeasured",
    "Regressed",
    "Verdict",
    "adversarial_transfer_blocked",
    "backdoor_not_amplified",
    "backdoor_removed",
    "derived_from_original",
    "edge_cases_preserved",
    "layers_within",
    "no_backdoor_activated",
    "no_safety_bypass",
    "over_refusal_preserved",
    "robustness_preserved",
    "safety_preserved",
]


def __getattr__(name: str) -> Any:
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{room}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
