"""Sets of checks under one marker: ``@compsec_suite(level="standard")``.

Best practice after compressing a model is to run the whole red-team suite again, not the one test
that comes to mind. A level names the checks; each applies to the pairs that it can work on (a
language model gets no pixels, a model without a described trigger no backdoor check). A marker that
stands on the same test takes the place of the level's check of that name.

Not in any level: checks that need something only the user knows (``eps``, ``tasks``, ``traces``),
``timing_indistinguishable``, which needs a quiet machine, and ``no_drift``, which needs a baseline.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_compsec.config.pairs import PairName
    from pytest_compsec.config.schema import ModelEntry
    from pytest_compsec.markers import MarkedCheck

SUITE = "compsec_suite"
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
    level: str = "standard",
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
    checks: Iterable[MarkedCheck], name: PairName, entry: ModelEntry
) -> list[MarkedCheck]:
    """The checks of a test that are made on this pair; none where the test does not run on it.

    Every marker that stands on the test has to select it, and each that is a check has to work on
    it; of a level's checks those that do are made.
    """
    made = []
    for check in checks:
        if not check.arguments.selects(name.model, name.variant):
            return []
        fits = entry.task in check.marker.tasks
        if check.of_level and BACKDOOR in check.marker.fixtures:
            fits = fits and entry.backdoor is not None
        if fits:
            made.append(check)
        elif not check.of_level:
            return []
    return made


def level_test_text(level: str) -> str:
    """A test file that applies a level's checks one by one, for people to change."""
    from pytest_compsec.markers import MARKERS

    lines = [
        f'"""The checks of the level {level!r}, one test each: `compsec init --level {level}`.',
        "",
        "Run it with:  pytest",
        "",
        "Each test runs once per pair (an original and one compressed form) and ends in one",
        "verdict: PRESERVED passes; REGRESSED, INCONCLUSIVE and NOT_MEASURED fail and say what to",
        "do. Checks that need a trigger stand commented out: describe it in compsec.yaml first.",
        "",
        "The same in one line, over all pairs:  @compsec_suite(level=...)",
        '"""',
        "",
        "from pytest_compsec import (",
    ]
    named = LEVELS[level]
    at_once = [name for name in named if not _needs_a_trigger(name)]
    lines += [f"    {name}," for name in sorted(at_once)]
    lines += [")"]
    for name, arguments in named.items():
        written = ", ".join(f'{key}="{value}"' for key, value in arguments.items())
        purpose = MARKERS[name].purpose
        prefix = "# " if _needs_a_trigger(name) else ""
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
