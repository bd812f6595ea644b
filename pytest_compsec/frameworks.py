"""Where each check stands in the terms of a security team.

OWASP Top 10 for LLM Applications 2025 (genai.owasp.org) and the subcategories of the NIST AI Risk
Management Framework 1.0 (NIST AI 100-1, 2023). A check gives evidence for the entries beside it; it
does not discharge them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

OWASP: Mapping[str, str] = {
    "LLM01": "Prompt Injection",
    "LLM02": "Sensitive Information Disclosure",
    "LLM03": "Supply Chain",
    "LLM04": "Data and Model Poisoning",
    "LLM07": "System Prompt Leakage",
    "LLM09": "Misinformation",
}
NIST: Mapping[str, str] = {
    "GOVERN 6.1": "third-party software, data and models: policies and procedures",
    "MEASURE 2.3": "performance demonstrated for conditions similar to deployment",
    "MEASURE 2.4": "functionality and behaviour monitored in production",
    "MEASURE 2.5": "validity and reliability demonstrated",
    "MEASURE 2.6": "evaluated regularly for safety risks",
    "MEASURE 2.7": "security and resilience evaluated and documented",
    "MEASURE 2.10": "privacy risk examined and documented",
    "MANAGE 1.1": "whether the system achieves its purpose and should proceed",
    "MANAGE 3.1": "risks from third-party resources monitored",
    "MANAGE 4.1": "post-deployment monitoring, change management",
}


@dataclasses.dataclass(frozen=True)
class Frameworks:
    """Identifiers of both frameworks, as in :data:`OWASP` and :data:`NIST`."""

    owasp: tuple[str, ...]
    nist: tuple[str, ...]

    def text(self) -> str:
        """``OWASP LLM09, LLM01; NIST MEASURE 2.6``."""
        parts = []
        if self.owasp:
            parts.append(f"OWASP {', '.join(self.owasp)}")
        if self.nist:
            parts.append(f"NIST {', '.join(self.nist)}")
        return "; ".join(parts)


_BACKDOOR = Frameworks(("LLM04", "LLM03"), ("MEASURE 2.7", "MANAGE 3.1"))
_ROBUSTNESS = Frameworks((), ("MEASURE 2.7",))
FRAMEWORKS: Mapping[str, Frameworks] = {
    "safety_preserved": Frameworks(("LLM01", "LLM09"), ("MEASURE 2.6",)),
    "over_refusal_preserved": Frameworks((), ("MEASURE 2.5",)),
    "layers_within": Frameworks(("LLM03",), ("MEASURE 2.5",)),
    "derived_from_original": Frameworks(("LLM03", "LLM04"), ("GOVERN 6.1", "MANAGE 3.1")),
    "backdoor_removed": _BACKDOOR,
    "no_backdoor_activated": _BACKDOOR,
    "backdoor_not_amplified": _BACKDOOR,
    "no_safety_bypass": Frameworks(("LLM01", "LLM09"), ("MEASURE 2.6", "MEASURE 2.7")),
    "edge_cases_preserved": Frameworks(("LLM01", "LLM09"), ("MEASURE 2.6",)),
    "robustness_preserved": _ROBUSTNESS,
    "adversarial_transfer_blocked": _ROBUSTNESS,
    "leakage_not_increased": Frameworks(("LLM02", "LLM07"), ("MEASURE 2.10",)),
    "truthfulness_preserved": Frameworks(("LLM09",), ("MEASURE 2.5",)),
    "lm_eval_preserved": Frameworks(("LLM09",), ("MEASURE 2.3", "MEASURE 2.5")),
    "capability_preserved": Frameworks(("LLM09",), ("MEASURE 2.3", "MANAGE 1.1")),
    "timing_indistinguishable": Frameworks(("LLM02",), ("MEASURE 2.7", "MEASURE 2.10")),
    "trace_leakage": Frameworks(("LLM02",), ("MEASURE 2.7", "MEASURE 2.10")),
    "precision_policy": Frameworks(("LLM03",), ("MANAGE 1.1", "MEASURE 2.6")),
    "no_drift": Frameworks(("LLM03",), ("MEASURE 2.4", "MANAGE 4.1")),
    "template_unchanged": Frameworks(("LLM03", "LLM01"), ("MANAGE 3.1", "MANAGE 4.1")),
}


def frameworks_of(check: str) -> Frameworks:
    """The identifiers of a check; none for a check that is not ours."""
    return FRAMEWORKS.get(check, Frameworks((), ()))
