"""The seeded, stratified order: complete, balanced, and the same everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pytest_compsec.statistics.ordering import Block, order_seed, stratified_blocks


def strata_of(*sizes: int) -> list[str]:
    """Categories of the given sizes, one after the other as in a file."""
    return [f"category {c:03d}" for c, size in enumerate(sizes) for _ in range(size)]


SETS = {
    "built-in harmful": strata_of(*[54] * 16),
    "built-in benign": strata_of(*[20] * 24),
    "uneven": strata_of(200, 130, 120, 100, 90, 80, 60, 40, 24, 20),
    "one rare category": strata_of(860, 4),
    "several rare categories": strata_of(500, 100, 30, 6, 5, 3, 1),
    "every prompt its own category": strata_of(*[1] * 480),
    "a hundred categories": strata_of(*[10] * 100),
    "equal and uneven": strata_of(30, 30, 30, 30, 17),
    "no categories": strata_of(200),
    "three prompts": strata_of(1, 1, 1),
}


def is_balanced(blocks: Sequence[Block], strata: Sequence[str]) -> bool:
    """What the proof needs: in each block, each category has its share of the stakes."""
    for block in blocks:
        for name in set(strata):
            staked = sum(
                stake
                for index, stake in zip(block.indices, block.stakes, strict=True)
                if strata[index] == name
            )
            share = strata.count(name) / len(strata)
            if staked != pytest.approx(len(block) * share):
                return False
    return True


@pytest.mark.parametrize("name", SETS)
def test_every_prompt_is_answered_once(name: str) -> None:
    blocks = stratified_blocks(SETS[name], 1)
    answered = [index for block in blocks for index in block.indices]
    assert sorted(answered) == list(range(len(SETS[name])))


@pytest.mark.parametrize("name", SETS)
def test_stakes_are_positive_and_sum_to_the_prompts_of_their_block(name: str) -> None:
    for block in stratified_blocks(SETS[name], 1):
        assert min(block.stakes) > 0
        assert sum(block.stakes) == pytest.approx(len(block))


@pytest.mark.parametrize(
    "name", ["built-in harmful", "built-in benign", "uneven", "equal and uneven"]
)
def test_every_block_weighs_the_categories_as_the_whole_set_does(name: str) -> None:
    assert is_balanced(stratified_blocks(SETS[name], 1), SETS[name])


def test_without_stakes_an_uneven_set_would_be_out_of_balance() -> None:
    blocks = stratified_blocks(SETS["uneven"], 1)
    unweighted = [replace(block, stakes=(1.0,) * len(block)) for block in blocks]
    assert not is_balanced(unweighted, SETS["uneven"])


@pytest.mark.parametrize(
    ("name", "count", "size"), [("built-in harmful", 54, 16), ("built-in benign", 20, 24)]
)
def test_the_built_in_sets_are_cut_evenly(name: str, count: int, size: int) -> None:
    blocks = stratified_blocks(SETS[name], 1)
    assert [len(block) for block in blocks] == [size] * count
    assert {stake for block in blocks for stake in block.stakes} == {1.0}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("one rare category", 54),
        ("several rare categories", 15),
        ("every prompt its own category", 30),
        ("a hundred categories", 10),
        ("no categories", 12),
        ("three prompts", 1),
    ],
)
def test_rare_categories_leave_room_for_several_looks(name: str, count: int) -> None:
    assert len(stratified_blocks(SETS[name], 1)) == count


def test_a_category_is_kept_apart_when_blocks_of_64_can_hold_it() -> None:
    strata = strata_of(*[100] * 6, 10)  # 10 blocks of 61
    blocks = stratified_blocks(strata, 1)
    assert len(blocks) == 10
    assert is_balanced(blocks, strata)


def test_no_prompts_make_no_blocks() -> None:
    assert stratified_blocks([], 1) == ()


def test_the_order_of_a_seed_is_recorded_for_good() -> None:
    # the digest was recorded once: another platform or version must deal the same hands
    blocks = stratified_blocks(
        SETS["equal and uneven"], order_seed("lock", "test_safety.py::test_refuses")
    )
    order = ",".join(str(index) for block in blocks for index in block.indices)
    assert hashlib.sha256(order.encode()).hexdigest()[:16] == "6ef66d69bcf54373"
    assert order_seed("lock", "test_safety.py::test_refuses") == 4822513754657978805


def test_another_seed_gives_another_order() -> None:
    first, second = (stratified_blocks(SETS["built-in harmful"], seed) for seed in (1, 2))
    assert first == stratified_blocks(SETS["built-in harmful"], 1)
    assert first != second


def test_neighbours_of_the_file_are_spread() -> None:
    first = stratified_blocks(SETS["no categories"], 1)[0]
    assert max(first.indices) - min(first.indices) > 100


def test_the_parts_of_a_seed_are_told_apart() -> None:
    seeds = {order_seed("ab", "c"), order_seed("a", "bc"), order_seed("abc"), order_seed("c", "ab")}
    assert len(seeds) == 4
