"""From markers to parametrized tests: which pairs a test runs on, and what is wrong with it.

How pytest must be addressed here (a ``usefixtures`` mark around item creation, problems gathered
and raised once) was tried on pytest 8 and 9, serial and under xdist; see the comments.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_compsec.enough import require_enough_prompts
from pytest_compsec.givens import nowhere, overridden
from pytest_compsec.markers import MarkedCheck, has_marker, marked_checks
from pytest_compsec.presets import SUITE, checks_on
from pytest_compsec.run import CHECKS, RUN, PairOfTest, PairParameter, Run

if TYPE_CHECKING:
    from _pytest.python import FunctionDefinition

    from pytest_compsec.suite import Suite

FIXTURE = "model_pair"


@contextlib.contextmanager
def asking_for_the_pair(collector: pytest.Collector, test: object) -> Iterator[None]:
    """While the items of a marked test are made, let it look as if it asked for ``model_pair``.

    Appending to ``metafunc.fixturenames`` is not enough: pytest prunes what no fixture closure
    holds. Marking ``test`` itself would leak to tests that inherit it.
    """
    if not _is_marked(collector, test):
        yield
        return
    mark = pytest.mark.usefixtures(FIXTURE, *_fixtures_of(collector, test)).mark
    collector.own_markers.append(mark)
    try:
        yield
    finally:
        collector.own_markers.remove(mark)


def _is_marked(collector: pytest.Collector, test: object) -> bool:
    if inspect.isclass(test) or not callable(test):
        return False
    return has_marker(_marks(collector, test), collector.config.stash[RUN].markers)


def _marks(collector: pytest.Collector, test: object) -> list[pytest.Mark]:
    own = getattr(test, "pytestmark", ())
    own_marks = [mark for mark in own if isinstance(mark, pytest.Mark)] if _is_list(own) else []
    return [*own_marks, *collector.iter_markers()]


def _fixtures_of(collector: pytest.Collector, test: object) -> list[str]:
    """The fixtures from which the markers of a test take what they test with."""
    marked = {mark.name for mark in _marks(collector, test)}
    # What a level holds is not known here, so everything that its checks may take is there.
    markers = collector.config.stash[RUN].markers
    names = markers.keys() if SUITE in marked else marked & markers.keys()
    return sorted({fixture for name in names for fixture in markers[name].fixtures})


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def parametrize(run: Run, metafunc: pytest.Metafunc) -> None:
    """Give a test that uses ``model_pair`` its pairs. Problems go to ``run.problems``."""
    if FIXTURE not in metafunc.fixturenames or _parametrized_by_user(metafunc.definition):
        return
    node = metafunc.definition
    checks = _valid_checks(run, node)
    suite = run.suite_of(node.path)
    chosen: list[PairParameter] = []
    if suite is not None:
        given = overridden(node)
        names = run.pair_names(suite, checks, given)
        chosen = [PairParameter(suite.path, name.id) for name in names]
        problems = [*_other_tasks(suite, checks)]
        problems += [
            text
            for check in checks
            if not check.of_level
            for text in nowhere(suite, check, names, node)
        ]
        for problem in problems:
            run.add_problem(f"{_where(node)}: {problem}")
        if not chosen and not problems:
            run.add_problem(f"{_where(node)}: {_nothing_selected(suite, checks)}")
        entries = suite.config.config.models
        for name in names:  # of a level only what is made on this pair
            made = checks_on(checks, name, entries[name.model], given)
            run.parametrized.update(check.arguments.check for check in made)
        for check in checks:
            require_enough_prompts(run, suite, check, node)
    if not chosen:
        # The run ends with a usage error; an empty list would be reported as a skip meanwhile.
        metafunc.parametrize(FIXTURE, [pytest.param(None, id="no-pair")], indirect=True)
        return
    metafunc.parametrize(
        FIXTURE,
        chosen,
        ids=[parameter.pair for parameter in chosen],
        indirect=True,
        scope="session",
    )


def _parametrized_by_user(definition: FunctionDefinition) -> bool:
    for mark in definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
        if isinstance(names, str):
            names = [name.strip() for name in names.split(",")]
        if FIXTURE in names:
            return True
    return False


def _valid_checks(run: Run, node: pytest.Item | FunctionDefinition) -> list[MarkedCheck]:
    checks = []
    for check in marked_checks(node, run.markers):
        if isinstance(check, str):
            run.add_problem(f"{_where(node)}: {check}")
        else:
            checks.append(check)
    return checks


def _where(node: pytest.Item | FunctionDefinition) -> str:
    return node.nodeid.split("[", 1)[0]


def _other_tasks(suite: Suite, checks: list[MarkedCheck]) -> Iterator[str]:
    """Models that a marker names and that it does not work on."""
    for check in checks:
        if check.of_level:
            continue
        for model in check.arguments.models or ():
            entry = suite.config.config.models.get(model)
            if entry is not None and entry.task not in check.marker.tasks:
                yield (
                    f"{check.arguments.check}(models={model!r}): works on "
                    f"{' and '.join(check.marker.tasks)} models, and {model!r} is for "
                    f"{entry.task}"
                )


def _nothing_selected(suite: Suite, checks: list[MarkedCheck]) -> str:
    """Why no pair is left: an unknown name, or markers that exclude each other."""
    models = {name.model for name in suite.pairs}
    variants = {name.variant for name in suite.pairs}
    for check in checks:
        for kind, asked, known in (
            ("models", check.arguments.models, models),
            ("variants", check.arguments.variants, variants),
        ):
            for name in asked or ():
                if name not in known:
                    close = difflib.get_close_matches(name, known, n=1)
                    hint = f"did you mean {close[0]!r}?" if close else f"it has {sorted(known)}"
                    return f"{kind}={name!r} is not in {suite.path}; {hint}"
    pairs = ", ".join(name.id for name in suite.pairs)
    tasks = {entry.task for entry in suite.config.config.models.values()}
    for check in checks:
        if not tasks.intersection(check.marker.tasks):
            return (
                f"{check.arguments.check} works on {' and '.join(check.marker.tasks)} models, and "
                f"{suite.path} has none; its pairs are: {pairs}"
            )
    if len(checks) > 1:
        return f"its markers select no pair in common; the pairs of {suite.path} are: {pairs}"
    return f"selects no pair; the pairs of {suite.path} are: {pairs}"


def prepare(run: Run, items: list[pytest.Item]) -> None:
    """Attach to every marked item its checks, and refuse those that could pass unmeasured."""
    for item in items:
        if not has_marker(item.iter_markers(), run.markers):
            continue
        import unittest  # here, because most projects never come this far

        where = _where(item)
        checks = _valid_checks(run, item)
        if not isinstance(item, pytest.Function):
            run.add_problem(f"{where}: a compsec marker works on test functions and methods only")
            continue
        if item.cls is not None and issubclass(item.cls, unittest.TestCase):
            run.add_problem(
                f"{where}: compsec markers do not work on unittest.TestCase; use a plain class"
            )
            continue
        parameter = pair_parameter(item)
        if parameter is None and _asked_for_a_pair(item):
            continue  # there is none for it, and the problem is told
        if parameter is None:
            run.add_problem(
                f"{where}: a compsec marker inside pytest.param(..., marks=...) cannot choose its "
                "pairs; put it on the test and select with variants=..."
            )
            continue
        suite = run.suite_of(item.path)
        confidence = suite.confidence if suite is not None else 0.95
        asked = checks
        checks = made_on(suite, asked, pair_id(item), overridden(item))
        if asked and not checks:
            run.add_problem(f"{where}: {_nothing_made(pair_id(item), asked)}")
        item.stash[CHECKS] = [
            dataclasses.replace(check, arguments=check.arguments.with_defaults(confidence))
            for check in checks
        ]
        # Before -k, -m and --lf leave any out: choosing among tests is choosing too.
        for check in item.stash[CHECKS]:
            run.collect(item, check, pair_id(item), suite)


def made_on(
    suite: Suite | None, checks: list[MarkedCheck], pair: str, overridden: Collection[str] = ()
) -> list[MarkedCheck]:
    """The checks of a test that are made on this pair: of a level those that work on it."""
    if suite is None or not any(check.of_level for check in checks):
        return checks
    models = suite.config.config.models
    for name in suite.pairs:
        if name.id == pair:
            return checks_on(checks, name, models[name.model], overridden)
    return checks


def _nothing_made(pair: str, checks: list[MarkedCheck]) -> str:
    """A test of a level on a pair of its own choice, on which it would pass unmeasured."""
    names = ", ".join(check.arguments.check for check in checks)
    return (
        f"it is parametrized with the pair {pair!r}, and no check is made there: its markers do "
        f"not select that pair, or none works on its model ({names}). Choose pairs with models= "
        "and variants= of the marker"
    )


def pair_parameter(item: pytest.Item) -> Any:
    """What ``model_pair`` is parametrized with on this item; None when it is not."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get(FIXTURE)


def _asked_for_a_pair(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and FIXTURE in callspec.params


def pair_id(item: pytest.Item) -> str:
    parameter = pair_parameter(item)
    return parameter.pair if isinstance(parameter, PairParameter) else str(parameter)


def group_by_pair(items: list[pytest.Item]) -> None:
    """Permute our items among their own places so that each pair's tests run together.

    pytest's reordering by session-scoped parameter gives up when other parameters are in play; a
    pair loaded twice costs minutes.
    """
    places = [index for index, item in enumerate(items) if CHECKS in item.stash]
    first_seen: dict[str, int] = {}
    for index in places:
        first_seen.setdefault(pair_id(items[index]), len(first_seen))
    ours = sorted((items[index] for index in places), key=lambda item: first_seen[pair_id(item)])
    for index, item in zip(places, ours, strict=True):
        items[index] = item


def pairs_of(run: Run, items: list[pytest.Item]) -> dict[str, PairOfTest]:
    """The pair of each test that asks for one, with or without a marker."""
    pairs = {}
    for item in items:
        parameter = pair_parameter(item)
        if parameter is None:
            continue
        if isinstance(parameter, PairParameter):
            suite = run.suite_at(parameter.config)
        else:  # the user's own parametrization names a pair
            suite = run.suite_of(item.path)
        name = pair_id(item)
        if suite is not None:
            models = [found.model for found in suite.pairs if found.id == name]
            where = str(suite.path)
            pairs[item.nodeid] = PairOfTest(
                f"{where} {name}", f"{where} {models[0] if models else name}", where
            )
    return pairs


def expect_results(run: Run, items: list[pytest.Item]) -> None:
    """Remember what the collected tests promise, so that nothing can go missing silently."""
    for item in items:
        for check in item.stash.get(CHECKS, []):
            run.expect(item, check, pair_id(item))
