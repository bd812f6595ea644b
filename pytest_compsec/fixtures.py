"""Fixtures: the pair under test, its two models, and the checks by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.givens import backdoor, evaluation_data
from pytest_compsec.run import BY_HAND, INTEGRITY, RUN, PairParameter, Run
from pytest_compsec.verdict import CheckResult

if TYPE_CHECKING:
    from pytest_compsec.models.loaded import LoadedModel
    from pytest_compsec.models.pair import ModelPair


__all__ = [
    "Checks",
    "backdoor",
    "compressed_model",
    "compsec",
    "compsec_device",
    "evaluation_data",
    "model_pair",
    "original_model",
]


@pytest.fixture(scope="session")
def model_pair(request: pytest.FixtureRequest) -> ModelPair:
    """Original and one compressed form, parametrized over the pairs of ``compsec.yaml``.

    Nothing is loaded until it is asked for: ``model_pair.original``, ``model_pair.compressed``,
    ``model_pair.answers(prompts)``.
    """
    run = request.config.stash[RUN]
    parameter = request.param
    if isinstance(parameter, PairParameter):
        suite = run.suite_at(parameter.config)
        pair_id = parameter.pair
    else:
        suite = run.suite_of(request.node.items[0].path if request.node.items else request.path)
        pair_id = str(parameter)
    if suite is None:
        raise ConfigError("; ".join(run.problems))
    return suite.pair(pair_id)


@pytest.fixture
def original_model(model_pair: ModelPair) -> LoadedModel:
    """The original of the pair, verified against the lock and loaded."""
    return model_pair.original


@pytest.fixture
def compressed_model(model_pair: ModelPair) -> LoadedModel:
    """The compressed form of the pair, verified, loaded, and checked to be compressed."""
    return model_pair.compressed


@pytest.fixture
def compsec_device(model_pair: ModelPair) -> str:
    """The torch device that the compressed model runs on, such as ``cpu`` or ``cuda:0``."""
    return model_pair.device


class Checks:
    """The checks by hand: ``compsec.safety_preserved(model_pair, max_degradation=0.05)``.

    Each returns its CheckResult and does not fail the test; the result is in the summary and the
    reports all the same. Checks of classifiers and backdoors also take ``evaluation_data=`` and
    ``backdoor=``, as the fixtures of these names give them.
    """

    def __init__(self, run: Run, item: pytest.Item) -> None:
        self._run = run
        self._item = item

    def __getattr__(self, name: str) -> Callable[..., CheckResult]:
        markers = self._run.markers
        marker = markers.get(name)
        if marker is None:
            raise AttributeError(f"there is no check {name!r}; there are {', '.join(markers)}")

        def check(pair: ModelPair, **arguments: Any) -> CheckResult:
            from pytest_compsec.family import by_hand

            given = {key: arguments.pop(key) for key in marker.fixtures if key in arguments}
            if given:
                pair = pair.with_given(**given)
            asked: Any = marker.arguments(**arguments)
            if hasattr(asked, "with_evidence") and isinstance(self._item, pytest.Function):
                from pytest_compsec.evidence import gather

                asked = asked.with_evidence(functools.partial(gather, self._run, self._item))
            try:
                result = marker.measure(pair, asked, test=self._item.nodeid)
            except IntegrityError as error:  # whatever the test makes of it
                self._item.stash[INTEGRITY] = str(error)
                raise
            result = by_hand(self._run, result, pair.pairs_of_suite)
            self._item.stash.setdefault(BY_HAND, []).append(result)
            return result

        return check


@pytest.fixture
def compsec(request: pytest.FixtureRequest) -> Checks:
    """Run checks by hand inside a test."""
    return Checks(request.config.stash[RUN], request.node)
