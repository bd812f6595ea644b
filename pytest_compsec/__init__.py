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
        capability_preserved,
        compsec_suite,
        derived_from_original,
        edge_cases_preserved,
        layers_within,
        leakage_not_increased,
        lm_eval_preserved,
        no_backdoor_activated,
        no_drift,
        no_safety_bypass,
        over_refusal_preserved,
        precision_policy,
        robustness_preserved,
        safety_preserved,
        template_unchanged,
        timing_indistinguishable,
        trace_leakage,
        truthfulness_preserved,
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
    "capability_preserved": "markers",
    "compsec_suite": "markers",
    "derived_from_original": "markers",
    "edge_cases_preserved": "markers",
    "layers_within": "markers",
    "leakage_not_increased": "markers",
    "lm_eval_preserved": "markers",
    "no_backdoor_activated": "markers",
    "no_drift": "markers",
    "no_safety_bypass": "markers",
    "over_refusal_preserved": "markers",
    "precision_policy": "markers",
    "robustness_preserved": "markers",
    "safety_preserved": "markers",
    "template_unchanged": "markers",
    "timing_indistinguishable": "markers",
    "trace_leakage": "markers",
    "truthfulness_preserved": "markers",
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
    "capability_preserved",
    "compsec_suite",
    "derived_from_original",
    "edge_cases_preserved",
    "layers_within",
    "leakage_not_increased",
    "lm_eval_preserved",
    "no_backdoor_activated",
    "no_drift",
    "no_safety_bypass",
    "over_refusal_preserved",
    "precision_policy",
    "robustness_preserved",
    "safety_preserved",
    "template_unchanged",
    "timing_indistinguishable",
    "trace_leakage",
    "truthfulness_preserved",
]


def __getattr__(name: str) -> Any:
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{room}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
