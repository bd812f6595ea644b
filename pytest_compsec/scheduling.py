"""Which worker of pytest-xdist runs which tests: all tests of a pair on one worker.

A worker that gets a pair loads its two models once. xdist's own groupings do not serve here:
``loadgroup`` groups nothing with pytest 9.2, and ``loadscope`` of xdist 3.8 hangs or repeats tests
after a crash (pytest-xdist #1323, #1327, #1362, #1378).

Imports xdist: only what runs where that is installed may import this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from xdist.scheduler.load import LoadScheduling  # type: ignore[import-untyped]

if TYPE_CHECKING:
    import pytest

    from pytest_compsec.run import PairOfTest


class Worker(Protocol):
    """What is asked of xdist's ``WorkerController``."""

    @property
    def shutting_down(self) -> bool: ...

    def shutdown(self) -> None: ...

    def send_runtest_some(self, indices: Sequence[int]) -> None: ...


class Unit(NamedTuple):
    """Tests (places in the collection) that one worker runs in a row. ``pair`` is None for a test
    that has none."""

    pair: PairOfTest | None
    tests: list[int]


def units_of(collection: Sequence[str], pairs: Mapping[str, PairOfTest]) -> list[Unit]:
    """One unit for each pair, at the place of its first test, and one for each other test."""
    units: list[Unit] = []
    of_pair: dict[str, Unit] = {}
    for place, test in enumerate(collection):
        pair = pairs.get(test)
        if pair is None:
            units.append(Unit(None, [place]))
        elif pair.pair in of_pair:
            of_pair[pair.pair].tests.append(place)
        else:
            of_pair[pair.pair] = Unit(pair, [place])
            units.append(of_pair[pair.pair])
    return units


def choose_unit(units: Sequence[Unit], own: str | None, others: frozenset[str]) -> int:
    """The place in ``units`` of the one that a worker should take next.

    The first in the order of the collection, but for pairs: rather one of the original that the
    worker has loaded already (``own``), then one of an original that no other worker is asking
    now (``others``), since two workers that need the answers of one original wait for each other.
    """
    first = units[0]
    if first.pair is None:
        return 0
    of_pairs = [(place, unit.pair.original) for place, unit in enumerate(units) if unit.pair]
    for place, original in of_pairs:
        if original == own:
            return place
    for place, original in of_pairs:
        if original not in others:
            return place
    return 0


class PairScheduling(LoadScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands out whole pairs, one at a time, to whichever worker is free next.

    Fewer pairs than workers leave the other workers to tests without a pair, then without work: a
    pair on two workers would load its models twice. In a project without pairs this is xdist's own
    scheduling by load.

    A worker only starts a test when it knows the next one or that there is none, so it is always
    given tests until at least two are pending; the second may be the first of another pair.
    """

    collection: list[str] | None
    node2collection: dict[Worker, list[str]]
    node2pending: dict[Worker, list[int]]
    nodes: list[Worker]

    def __init__(
        self,
        config: pytest.Config,
        log: Any,
        pairs: Callable[[], Mapping[str, PairOfTest]],
    ) -> None:
        super().__init__(config, log)
        self._pairs_of_run = pairs
        self._by_pair = False  # until the collection turns out to have pairs
        self._pairs: Mapping[str, PairOfTest] = {}
        self._units: list[Unit] = []
        self._original: dict[Worker, str] = {}  # the last that each worker was given

    @property
    def tests_finished(self) -> bool:
        return not self._units and bool(super().tests_finished)

    @property
    def has_pending(self) -> bool:
        return bool(self._units or super().has_pending)

    def schedule(self) -> None:
        if self.collection is None:
            self._pairs = self._pairs_of_run()
            self._by_pair = bool(self._pairs)
        if not self._by_pair:
            super().schedule()
            return
        if self.collection is None:
            if not self._check_nodes_have_same_collection():
                self.log("**Different tests collected, aborting run**")
                return
            self.collection = next(iter(self.node2collection.values()))
            self._units = units_of(self.collection, self._pairs)
            # Every worker gets a first unit before any gets a second.
            for node in self.nodes:
                self._give_unit(node)
        for node in self.nodes:
            self.check_schedule(node)

    def check_schedule(self, node: Worker, duration: float = 0) -> None:
        if not self._by_pair:
            super().check_schedule(node, duration)
            return
        # A replacement that is still collecting has no collection yet; it comes back when it has.
        if node.shutting_down or node not in self.node2collection:
            return
        while self._units and len(self.node2pending[node]) < 2:
            self._give_unit(node)
        if not self._units:
            node.shutdown()

    def add_node_collection(self, node: Worker, collection: Sequence[str]) -> None:
        super().add_node_collection(node, collection)
        if self._by_pair and node not in self.node2collection:
            # A replacement that collected other tests: their places would mean something else.
            node.shutdown()

    def mark_test_pending(self, item: str) -> None:
        if not self._by_pair:
            super().mark_test_pending(item)
            return
        assert self.collection is not None
        self._put_back([self.collection.index(item)])

    def remove_node(self, node: Worker) -> str | None:
        if self.collection is None and self._pairs_of_run():
            # One that died before the tests were handed out must not count as having collected.
            self.node2collection.pop(node, None)
        if not self._by_pair:
            crashed: str | None = super().remove_node(node)
            return crashed
        pending = self.node2pending.pop(node)
        self._original.pop(node, None)
        if not pending:
            return None
        assert self.collection is not None
        # A worker runs its tests in the order in which it got them.
        crashed = self.collection[pending.pop(0)]
        self._put_back(pending)
        return crashed

    def _put_back(self, tests: Sequence[int]) -> None:
        assert self.collection is not None
        returned = units_of([self.collection[place] for place in tests], self._pairs)
        self._units[:0] = [
            Unit(unit.pair, [tests[place] for place in unit.tests]) for unit in returned
        ]
        for node in self.nodes:
            self.check_schedule(node)

    def _give_unit(self, node: Worker) -> None:
        if not self._units:
            return
        others = frozenset(
            original for other, original in self._original.items() if other is not node
        )
        unit = self._units.pop(choose_unit(self._units, self._original.get(node), others))
        if unit.pair is not None:
            self._original[node] = unit.pair.original
        tests = unit.tests if unit.pair is not None else unit.tests + self._more_without_pair()
        self.node2pending[node].extend(tests)
        node.send_runtest_some(tests)

    def _more_without_pair(self) -> list[int]:
        """More tests without a pair: sent one by one they would wait for the controller."""
        count = 0
        most = max(1, len(self._units) // len(self.nodes) // 4)
        if self.maxschedchunk is not None:
            most = max(1, min(most, self.maxschedchunk))
        while count < min(most, len(self._units)) and self._units[count].pair is None:
            count += 1
        taken, self._units[:count] = self._units[:count], []
        return [place for unit in taken for place in unit.tests]


# `pytest -v` names the class before it is known whether there are pairs; a project that has none
# reads what it read before.
PairScheduling.__name__ = LoadScheduling.__name__
