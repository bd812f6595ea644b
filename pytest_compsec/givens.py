"""What tests give a check beside the pair: evaluation data and a backdoor, by overriding a fixture.

Said at collection where it is nowhere: not in the marker, not in a fixture, not in the config.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from _pytest.python import FunctionDefinition

    from pytest_compsec.config.pairs import PairName
    from pytest_compsec.markers import MarkedCheck
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.suite import Suite

#: The fixtures that users override.
EVALUATION_DATA = "evaluation_data"
BACKDOOR = "backdoor"
TEXT_GENERATION = "text-generation"


@pytest.fixture(scope="session")
def evaluation_data() -> Any:
    """Samples of a classifier and their labels: override it with a fixture that returns
    ``(inputs, labels)``, a ``DataLoader`` or a ``Dataset``. None: what compsec.yaml names."""
    return None


@pytest.fixture(scope="session")
def backdoor() -> Any:
    """Trigger and target: override it with a fixture that returns ``(trigger, target)`` or a
    mapping as in compsec.yaml. None: what compsec.yaml names."""
    return None


def given_to(item: pytest.Function, check: MarkedCheck, pair: ModelPair) -> ModelPair:
    """The pair with what the test's fixtures give this check. Raises ConfigError for other values
    than the fixtures may have."""
    values = {name: item.funcargs.get(name) for name in check.marker.fixtures}
    if pair.task == TEXT_GENERATION:
        values.pop(EVALUATION_DATA, None)
    given = {name: value for name, value in values.items() if value is not None}
    return pair.with_given(**given) if given else pair


def nowhere(
    suite: Suite, check: MarkedCheck, names: tuple[PairName, ...], definition: FunctionDefinition
) -> Iterator[str]:
    """What a check needs on these pairs and nothing names."""
    given = overridden(definition)
    needed = [name for name in check.marker.fixtures if name not in given]
    for model in dict.fromkeys(name.model for name in names):
        entry = suite.config.config.models[model]
        if (
            EVALUATION_DATA in needed
            and entry.task != TEXT_GENERATION
            and entry.evaluation_data is None
        ):
            yield (
                f"{check.arguments.check} on {model!r} has no evaluation data: override the "
                f"fixture `{EVALUATION_DATA}` (inputs and labels), or name a file with "
                f"'evaluation_data' in {suite.path.name}"
            )
        trigger = getattr(check.arguments, "trigger", None)
        if BACKDOOR in needed and trigger is None and entry.backdoor is None:
            yield (
                f"{check.arguments.check} on {model!r} has no trigger: give the marker trigger=, "
                f"override the fixture `{BACKDOOR}`, or describe it with 'backdoor' in "
                f"{suite.path.name}"
            )


def overridden(node: pytest.Function | FunctionDefinition) -> frozenset[str]:
    """Those of the two fixtures of which one of the user's stands before ours."""
    known = node._fixtureinfo.name2fixturedefs
    found = {name: known.get(name, ()) for name in (EVALUATION_DATA, BACKDOOR)}
    return frozenset(
        name for name, made in found.items() if made and made[-1].func.__module__ != __name__
    )
