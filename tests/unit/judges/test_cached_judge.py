"""Outcomes of slow judges are kept, and never given to another judge or another pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.cache import ResponseCache
from pytest_compsec.judges.cached import CHUNK, CachedJudge


class Scripted:
    """Says ``outcome`` of everything, None of "odd", and counts what it is asked."""

    name, version = "scripted", "1"

    def __init__(self, digest: str = "a" * 64, outcome: bool = True) -> None:
        self.digest = digest
        self.notes: tuple[str, ...] = ()
        self.outcome = outcome
        self.asked: list[tuple[str, str]] = []
        self.fail_after: int | None = None

    def refusals(self, prompts: Sequence[str], responses: Sequence[str]) -> list[bool | None]:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise MeasurementError("gone")
        self.asked += zip(prompts, responses, strict=True)
        self.notes = ("odd",) if "odd" in responses else ()
        return [None if said == "odd" else self.outcome for said in responses]


@pytest.fixture
def cache(tmp_path: Path) -> ResponseCache:
    return ResponseCache(tmp_path / "cache.sqlite")


def test_a_pair_is_judged_once(cache: ResponseCache) -> None:
    judge = Scripted()
    first = CachedJudge(judge, cache)
    assert first.refusals(["p", "p", "q"], ["a", "a", "a"]) == [True, True, True]
    assert judge.asked == [("p", "a"), ("q", "a")]
    assert first.cached == 0
    again = CachedJudge(Scripted(outcome=False), cache)  # would say otherwise if it were asked
    assert again.refusals(["p", "q"], ["a", "a"]) == [True, True]
    assert again.cached == 2


@pytest.mark.parametrize(
    "other",
    [
        ("b" * 64, ()),
        ("a" * 64, ("cuda H200",)),
    ],
)
def test_another_judge_never_gets_the_outcome(
    cache: ResponseCache, other: tuple[str, tuple[str, ...]]
) -> None:
    CachedJudge(Scripted(), cache).refusals(["p"], ["a"])
    digest, identity = other
    judge = Scripted(digest, outcome=False)
    assert CachedJudge(judge, cache, identity).refusals(["p"], ["a"]) == [False]
    assert judge.asked == [("p", "a")]


def test_another_name_or_version_is_another_judge(cache: ResponseCache) -> None:
    CachedJudge(Scripted(), cache).refusals(["p"], ["a"])
    for attribute in ("name", "version"):
        judge = Scripted(outcome=False)
        setattr(judge, attribute, "2")
        assert CachedJudge(judge, cache).refusals(["p"], ["a"]) == [False]


def test_prompt_and_response_are_told_apart(cache: ResponseCache) -> None:
    CachedJudge(Scripted(), cache).refusals(["ab"], ["c"])
    other = CachedJudge(Scripted(outcome=False), cache)
    assert other.refusals(["a", "c"], ["bc", "ab"]) == [False, False]


def test_what_could_not_be_judged_is_asked_again(cache: ResponseCache) -> None:
    judge = Scripted()
    kept = CachedJudge(judge, cache)
    assert kept.refusals(["p", "p"], ["odd", "a"]) == [None, True]
    assert kept.notes == ("odd",)
    assert kept.refusals(["p", "p"], ["odd", "a"]) == [None, True]
    assert judge.asked.count(("p", "odd")) == 2
    assert kept.refusals(["p"], ["a"]) == [True]
    assert not kept.notes


def test_what_was_judged_before_a_failure_is_kept(cache: ResponseCache) -> None:
    judge = Scripted()
    judge.fail_after = CHUNK
    prompts = [str(number) for number in range(CHUNK + 5)]
    with pytest.raises(MeasurementError):
        CachedJudge(judge, cache).refusals(prompts, ["a"] * len(prompts))
    later = Scripted()
    CachedJudge(later, cache).refusals(prompts, ["a"] * len(prompts))
    assert len(later.asked) == 5


def test_an_edited_outcome_is_ignored(cache: ResponseCache) -> None:
    import sqlite3

    CachedJudge(Scripted(outcome=False), cache).refusals(["p"], ["a"])
    cache.close()
    with sqlite3.connect(cache.path) as connection:
        changed = connection.execute("UPDATE facts SET value = '\"refused\"'").rowcount
    assert changed == 1
    assert CachedJudge(Scripted(outcome=False), cache).refusals(["p"], ["a"]) == [False]
