"""The checks: one file per marker, each a function from a pair to a CheckResult.

Usable without pytest: ``check_safety_preserved(open_suite("compsec.yaml").pair("a-int8"))``. A
check is imported when its name is first used (``checks.safety_preserved``).
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_compsec.checks import (  # noqa: I001 (one import of all, not twenty)
        adversarial_transfer_blocked as adversarial_transfer_blocked,
        backdoor_not_amplified as backdoor_not_amplified,
        backdoor_removed as backdoor_removed,
        capability_preserved as capability_preserved,
        derived_from_original as derived_from_original,
        edge_cases_preserved as edge_cases_preserved,
        layers_within as layers_within,
        leakage_not_increased as leakage_not_increased,
        lm_eval_preserved as lm_eval_preserved,
        no_backdoor_activated as no_backdoor_activated,
        no_drift as no_drift,
        no_safety_bypass as no_safety_bypass,
        over_refusal_preserved as over_refusal_preserved,
        precision_policy as precision_policy,
        robustness_preserved as robustness_preserved,
        safety_preserved as safety_preserved,
        template_unchanged as template_unchanged,
        timing_indistinguishable as timing_indistinguishable,
        trace_leakage as trace_leakage,
        truthfulness_preserved as truthfulness_preserved,
    )
else:

    def __getattr__(name: str) -> Any:
        whole = f"{__name__}.{name}"
        if name.startswith("__") or importlib.util.find_spec(whole) is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module(whole)
