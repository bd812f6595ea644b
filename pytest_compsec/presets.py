"""Sets of checks under one marker: ``@compsec_suite(level="standard")``.

Best practice after compressing a model is to run the whole red-team suite again, not the one test
that comes to mind. A level names the checks; each applies to the pairs that it can work on (a
language model gets no pixels, a model without a trigger no backdoor check), and a run says before
it begins what it leaves out where. A marker that stands on the same test takes the place of the
level's check of that name. :data:`EXCLUDED` says which checks are in no level, and why.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_compsec.config.pairs import PairName
    from pytest_compsec.config.schema import ModelEntry
    from pytest_compsec.markers import MarkedCheck

SUITE = "compsec_suite"
DEFAULT_LEVEL = "standard"
BACKDOOR = "backdoor"

_QUICK: dict[str, dict[str, Any]] = {"template_unchanged": {}, "safety_preserved": {}}
_STANDARD: dict[str, dict[str, Any]] = {
    **_QUICK,
    "over_refusal_preserved": {},
    "edge_cases_preserved": {},
    "capability_preserved": {},
    "truthfulness_preserved": {},
    "leakage_not_increased": {},
    "no_backdoor_activated": {},
}
_FULL: dict[str, dict[str, Any]] = {
    **_STANDARD,
    "no_safety_bypass": {"prompts": "jailbreak"},
    "backdoor_not_amplified": {},
    "precision_policy": {},
}
#: The checks of each level with the arguments that differ from a bare marker's.
LEVELS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "quick": _QUICK,
    "standard": _STANDARD,
    "full": _FULL,
}
#: The checks of no level, each with what keeps it out.
EXCLUDED: Mapping[str, str] = {
    "layers_within": (
        "how far weights may move depends on the method: a limit that means something at 8 bits "
        "fails every honest 4-bit model"
    ),
    "derived_from_original": (
        "asks of files that came from elsewhere, in a format whose rounding is known; of a variant "
        "that is made here it measures nothing"
    ),
    "backdoor_removed": (
        "claims that the original has a backdoor that works, and that compression removed it"
    ),
    "robustness_preserved": "needs `eps`, which depends on the user's inputs",
    "adversarial_transfer_blocked": "needs `eps`, which depends on the user's inputs",
    "lm_eval_preserved": "needs `tasks`, and the extra `[lm-eval]`",
    "timing_indistinguishable": "needs a quiet machine",
    "trace_leakage": "needs `traces`, recorded with a probe",
    "no_drift": "needs a baseline that somebody accepted",
}


@dataclasses.dataclass(frozen=True)
class SuiteArguments:
    """Validated arguments of ``compsec_suite``."""

    level: str
    selection: Mapping[str, Any]

    @property
    def checks(self) -> dict[str, dict[str, Any]]:
        """Arguments of each check of the level, by its name, in the order of measuring."""
        return {
            name: {**arguments, **self.selection} for name, arguments in LEVELS[self.level].items()
        }


def compsec_suite_arguments(
    *,
    level: str = DEFAULT_LEVEL,
    models: str | Sequence[str] | None = None,
    variants: str | Sequence[str] | None = None,
) -> SuiteArguments:
    """Validate the marker's arguments. Raises ValueError in plain words.

    ``level`` is ``quick``, ``standard`` or ``full``; ``models`` and ``variants`` choose pairs
    (None: all).
    """
    from pytest_compsec.checks.arguments import require_names

    if not isinstance(level, str) or level not in LEVELS:
        raise ValueError(f"level={level!r} must be one of {', '.join(LEVELS)}")
    require_names("models", models)
    require_names("variants", variants)
    chosen = {"models": models, "variants": variants}
    return SuiteArguments(level, {key: value for key, value in chosen.items() if value is not None})


def checks_on(
    checks: Iterable[MarkedCheck],
    name: PairName,
    entry: ModelEntry,
    overridden: Collection[str] = (),
) -> list[MarkedCheck]:
    """The checks of a test that are made on this pair; none where the test does not run on it.

    Every marker that stands on the test has to select it, and each that is a check has to work on
    it; of a level's checks those that do are made. ``overridden`` are the fixtures of ours that the
    test has its own of (:func:`pytest_compsec.givens.overridden`).
    """
    made = []
    for check in checks:
        if not check.arguments.selects(name.model, name.variant):
            return []
        if _why_not(check, entry, overridden) is None:
            made.append(check)
        elif not check.of_level:
            return []
    return made


def left_out(
    checks: Iterable[MarkedCheck],
    name: PairName,
    entry: ModelEntry,
    overridden: Collection[str] = (),
) -> dict[str, str]:
    """The level's checks that are not made on a pair, each with the reason; none of a pair that a
    marker of the test does not select, for that was asked for."""
    checks = list(checks)
    if not all(check.arguments.selects(name.model, name.variant) for check in checks):
        return {}
    of_all = None
    for check in checks:
        if not check.of_level and _why_not(check, entry, overridden) is not None:
            of_all = f"the test's own {check.arguments.check} {_works_on(check)}"
    reasons = {
        check.arguments.check: of_all or _why_not(check, entry, overridden)
        for check in checks
        if check.of_level
    }
    return {check: reason for check, reason in reasons.items() if reason is not None}


def _why_not(check: MarkedCheck, entry: ModelEntry, overridden: Collection[str]) -> str | None:
    """Why a check is not made on the pairs of a model; None where it is."""
    if entry.task not in check.marker.tasks:
        return _works_on(check)
    described = entry.backdoor is not None or BACKDOOR in overridden
    if check.of_level and BACKDOOR in check.marker.fixtures and not described:
        return f"no trigger is described, by '{BACKDOOR}' in compsec.yaml or by that fixture"
    return None


def _works_on(check: MarkedCheck) -> str:
    return f"works on {' and '.join(check.marker.tasks)} models"


def level_test_text(level: str) -> str:
    """A test file that applies a level's checks one by one, for people to change."""
    from pytest_compsec.markers import MARKERS

    named = LEVELS[level]
    later = [name for name in named if _needs_a_trigger(name)]
    trigger = (
        " Checks that need a trigger stand commented out: describe it in compsec.yaml first."
        if later
        else ""
    )
    lines = [
        f'"""The checks of the level {level!r}, one test each: `compsec init --level {level}`.',
        "",
        "Run it with:  pytest",
        "",
        "Each test runs once per pair (an original and one compressed form) and ends in one",
        "verdict: PRESERVED passes; REGRESSED, INCONCLUSIVE and NOT_MEASURED fail and say what to",
        f"do.{trigger}",
        "",
        "The same in one line, over all pairs:  @compsec_suite(level=...)",
        '"""',
        "",
        "from pytest_compsec import (",
    ]
    lines += [f"    # {name}," if name in later else f"    {name}," for name in sorted(named)]
    lines += [")"]
    for name, arguments in named.items():
        written = ", ".join(f'{key}="{value}"' for key, value in arguments.items())
        purpose = MARKERS[name].purpose
        prefix = "# " if name in later else ""
        lines += [
            "",
            "",
            *(f"# {line}" for line in textwrap.wrap(purpose[0].upper() + purpose[1:], 96)),
            f"{prefix}@{name}({written})" if written else f"{prefix}@{name}",
            f"{prefix}def test_{name}(model_pair): ...",
        ]
    return "\n".join(lines) + "\n"


def _needs_a_trigger(name: str) -> bool:
    from pytest_compsec.markers import MARKERS

    return BACKDOOR in MARKERS[name].fixtures
