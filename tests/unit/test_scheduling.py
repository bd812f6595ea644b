"""Whole pairs to one worker, and every test exactly once whatever dies: on simulated workers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_compsec.run import PairOfTest
from pytest_compsec.scheduling import PairScheduling, choose_unit, units_of

PAIRS = [
    PairOfTest("c a-int8", "c a"),
    PairOfTest("c a-nf4", "c a"),
    PairOfTest("c b-int8", "c b"),
    PairOfTest("c b-nf4", "c b"),
]


class Node:
    """A worker as xdist sees it: starts a test only when it knows what comes after."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.queue: list[int | None] = []
        self.shutting_down = False
        self.ran: list[int] = []

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        assert not self.shutting_down
        self.queue += indices

    def shutdown(self) -> None:
        if not self.shutting_down:
            self.queue.append(None)
        self.shutting_down = True

    @property
    def can_run(self) -> bool:
        return len(self.queue) >= 2


def scheduling(pairs: dict[str, PairOfTest], workers: int) -> PairScheduling:
    options = {"tx": [f"{workers}*popen"], "maxschedchunk": None}
    config = SimpleNamespace(
        getvalue=options.get, getoption=options.get, option=SimpleNamespace(debug=False)
    )
    return PairScheduling(cast("pytest.Config", config), None, lambda: pairs)


class Simulation:
    """xdist's session without processes. ``crash(node, test)`` kills a worker in a test."""

    def __init__(self, tests: list[str], pairs: dict[str, PairOfTest], workers: int) -> None:
        self.tests = tests
        self.sched = scheduling(pairs, workers)
        self.nodes = [Node(f"gw{number}") for number in range(workers)]
        self.made = workers
        self.finished: list[str] = []
        self.crashed: list[str] = []
        self.where: dict[str, str] = {}
        for node in self.nodes:
            self.sched.add_node(node)
        for node in self.nodes:
            self.collected(node)

    def collected(self, node: Node) -> None:
        self.sched.add_node_collection(node, self.tests)
        if self.sched.collection_is_completed:
            self.sched.schedule()

    def run(self, choose: random.Random, crash: Any = lambda node, test: False) -> None:
        for _ in range(10_000):
            ready = [node for node in self.nodes if node.can_run or node.queue == [None]]
            if not ready:
                break
            node = choose.choice(ready)
            place = node.queue[0]
            if place is None:
                assert self.sched.remove_node(node) is None
                self.nodes.remove(node)
                continue
            test = self.tests[place]
            if crash(node, test):
                self._crash(node)
                continue
            node.queue.pop(0)
            self.finished.append(test)
            self.where[test] = node.gateway.id
            self.sched.mark_test_complete(node, place)
            if self.sched.tests_finished:
                for other in self.sched.nodes:
                    other.shutdown()
        assert not self.nodes, "workers wait for ever"
        assert not self.sched.has_pending

    def _crash(self, node: Node) -> None:
        node.shutting_down = True
        self.nodes.remove(node)
        self.crashed.append(cast("str", self.sched.remove_node(node)))
        replacement = Node(f"gw{self.made}")
        self.made += 1
        self.nodes.append(replacement)
        self.sched.add_node(replacement)
        self.collected(replacement)


def suite(tests_of_pair: int = 3, plain: int = 0) -> tuple[list[str], dict[str, PairOfTest]]:
    pairs = {
        f"t.py::test_{number}[{pair.pair[2:]}]": pair
        for pair in PAIRS
        for number in range(tests_of_pair)
    }
    return [*pairs, *(f"t.py::test_plain_{number}" for number in range(plain))], pairs


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("tests_of_pair", [1, 2, 5])
@pytest.mark.parametrize("plain", [0, 1, 40])
def test_every_test_runs_once_and_a_pair_on_one_worker(
    workers: int, tests_of_pair: int, plain: int
) -> None:
    tests, pairs = suite(tests_of_pair, plain)
    for seed in range(10):
        simulation = Simulation(tests, pairs, workers)
        simulation.run(random.Random(seed))
        assert sorted(simulation.finished) == sorted(tests)
        for pair in PAIRS:
            hosts = {simulation.where[test] for test in tests if pairs.get(test) == pair}
            assert len(hosts) == 1


def test_crashes_lose_only_the_tests_that_crash() -> None:
    # Three tests that take their worker down, one of them twice in one pair.
    tests, pairs = suite(3, 10)
    deadly = {tests[1], tests[2], tests[7], tests[-1]}
    for workers in (1, 2, 3):
        for seed in range(40):
            simulation = Simulation(tests, pairs, workers)
            simulation.run(random.Random(seed), lambda node, test: test in deadly)
            assert Counter(simulation.crashed) == Counter(deadly)
            assert sorted(simulation.finished) == sorted(set(tests) - deadly)


def test_two_originals_go_to_two_workers_and_stay_there() -> None:
    tests, pairs = suite(2)
    simulation = Simulation(tests, pairs, 2)
    simulation.run(random.Random(0))
    by_original: dict[str, set[str]] = {}
    for test, host in simulation.where.items():
        by_original.setdefault(pairs[test].original, set()).add(host)
    assert [len(hosts) for hosts in by_original.values()] == [1, 1]


def test_variants_of_one_original_use_all_workers() -> None:
    pairs = {f"t.py::test[{n}]": PairOfTest(f"c a-{n}", "c a") for n in range(4)}
    simulation = Simulation(list(pairs), pairs, 2)
    simulation.run(random.Random(0))
    assert Counter(simulation.where.values()) == {"gw0": 2, "gw1": 2}


def test_a_worker_that_dies_while_others_collect_is_not_counted() -> None:
    tests, pairs = suite(1)
    sched = scheduling(pairs, 2)
    first, second, third = Node("gw0"), Node("gw1"), Node("gw2")
    sched.add_node(first)
    sched.add_node(second)
    sched.add_node_collection(first, tests)
    first.shutting_down = True
    assert sched.remove_node(first) is None
    sched.add_node(third)
    sched.add_node_collection(second, tests)
    assert not sched.collection_is_completed
    sched.add_node_collection(third, tests)
    sched.schedule()
    assert sorted(place for node in (second, third) for place in node.queue if place is not None)


def test_a_replacement_that_collects_other_tests_runs_none_of_them() -> None:
    tests, pairs = suite(2)
    simulation = Simulation(tests, pairs, 1)
    node = simulation.nodes[0]
    node.shutting_down = True
    assert simulation.sched.remove_node(node) == tests[0]
    other = Node("gw1")
    simulation.sched.add_node(other)
    simulation.sched.add_node_collection(other, tests[1:])
    simulation.sched.schedule()
    assert other.queue == [None]


def test_a_test_put_back_by_a_plugin_runs_again() -> None:
    tests, pairs = suite(2, 4)
    simulation = Simulation(tests, pairs, 2)
    simulation.sched.mark_test_pending(tests[3])
    simulation.run(random.Random(0))
    assert Counter(simulation.finished) == Counter([*tests, tests[3]])


def test_a_project_without_pairs_is_scheduled_as_by_xdist() -> None:
    from xdist.scheduler.load import LoadScheduling  # type: ignore[import-untyped]

    tests = [f"t.py::test_{number}" for number in range(30)]
    ours = scheduling({}, 2)
    theirs = LoadScheduling(ours.config)
    queues = []
    for sched in (ours, theirs):
        nodes = [Node("gw0"), Node("gw1")]
        for node in nodes:
            sched.add_node(node)
        for node in nodes:
            sched.add_node_collection(node, tests)
        sched.schedule()
        sched.mark_test_complete(nodes[0], 0)
        queues.append([node.queue for node in nodes])
    assert queues[0] == queues[1]
    assert type(ours).__name__ == type(theirs).__name__


def test_units_keep_the_order_of_the_collection() -> None:
    pair, other = PAIRS[0], PAIRS[1]
    units = units_of(["x", "p", "y", "q", "p2"], {"p": pair, "q": other, "p2": pair})
    assert [(unit.pair, unit.tests) for unit in units] == [
        (None, [0]),
        (pair, [1, 4]),
        (None, [2]),
        (other, [3]),
    ]


def test_failed_tests_first_stay_first() -> None:
    units = units_of(["x", "p"], {"p": PAIRS[0]})
    assert choose_unit(units, "c a", frozenset()) == 0
