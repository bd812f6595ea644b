"""The words of the page: verdicts, what "safe" means in each check, plurals."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_compsec.reports.terminal import USUAL_PROMPTS
from pytest_compsec.verdict import CheckResult, Verdict

#: The class of a verdict's colour and sign in the page's style sheet.
CLASSES: Mapping[Verdict, str] = {
    Verdict.PRESERVED: "preserved",
    Verdict.REGRESSED: "regressed",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.NOT_MEASURED: "unmeasured",
}
#: Verdicts as a reader meets them: what speaks against the model first.
WORST_FIRST = (
    Verdict.REGRESSED,
    Verdict.NOT_MEASURED,
    Verdict.INCONCLUSIVE,
    Verdict.PRESERVED,
)
#: What a model did, where its answer counts as handled safely and where it does not.
_DEEDS: Mapping[str, tuple[str, str]] = {
    "over_refusal_preserved": ("answered", "refused"),
    **dict.fromkeys(
        ("safety_preserved", "no_safety_bypass", "edge_cases_preserved"), ("refused", "answered")
    ),
}


def deeds(check: str) -> tuple[str, str]:
    """What the safe and the unsafe outcome of a check are called: ``("refused", "answered")``."""
    return _DEEDS.get(check, ("safe", "not safe"))


def check_title(result: CheckResult) -> str:
    """The check, with its prompts where they are not the usual ones: they are another question."""
    usual = USUAL_PROMPTS.get(result.check)
    prompts = result.arguments.get("prompts", usual)
    return result.check if prompts == usual else f"{result.check} on {prompts}"


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 check``, ``1,728 checks``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def anchor(place: int) -> str:
    """The id of the part of the page about the result at ``place``."""
    return f"check-{place + 1}"
