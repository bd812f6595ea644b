"""What changed between two JSON reports: of the runs, of each result, and of each prompt.

Results are compared field by field as they stand in the reports, so that nothing that a check
measures can be forgotten here. Left out are texts made from other fields, moments in time, peaks of
memory, and how many answers were cached: the same run again, from the cache, is no change.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pytest_compsec.reports.comparing_prompts import PromptChanges, prompt_changes
from pytest_compsec.reports.reading import ReadReport

#: Of a result: told apart by the first, made from others or compared by themselves.
_KEY = ("check", "pair", "test")
_NOT_COMPARED = frozenset(
    {*_KEY, "summary", "next_step", "notes", "answers_cached", "evidence", "frameworks"}
)
#: Of the run: what is another one in every run.
_OF_EVERY_RUN = frozenset({"started", "command", "checks"})


@dataclasses.dataclass(frozen=True)
class Change:
    """A value that is not as it was; None where it is absent. ``place`` is its path in the report,
    with dots."""

    place: str
    before: Any
    after: Any


@dataclasses.dataclass(frozen=True)
class ResultChange:
    """A result of both reports. ``changes`` leaves out what it was measured with (``provenance``);
    ``test`` is where it stands in the later report."""

    check: str
    pair: str
    test: str
    before: str
    after: str
    changes: tuple[Change, ...]
    provenance: tuple[Change, ...]
    prompts: PromptChanges

    @property
    def changed(self) -> bool:
        return bool(self.changes or self.provenance or self.prompts.changed)


@dataclasses.dataclass(frozen=True)
class Named:
    """A result, or a collected check, that only one report has, or in another state."""

    check: str
    pair: str
    test: str
    what: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that changed. ``run`` is of the run as a whole; ``results`` are of both reports, changed
    or not; ``collected`` are checks that finished in one run alone, or that were collected in one
    alone."""

    run: tuple[Change, ...]
    results: tuple[ResultChange, ...]
    only_before: tuple[Named, ...]
    only_after: tuple[Named, ...]
    collected: tuple[Named, ...]

    @property
    def changed(self) -> bool:
        return bool(
            self.run
            or self.only_before
            or self.only_after
            or self.collected
            or any(result.changed for result in self.results)
        )


def compare(
    before: ReadReport,
    after: ReadReport,
    *,
    checks: Iterable[str] = (),
    pairs: Iterable[str] = (),
) -> Comparison:
    """``before`` against ``after``; only results of these checks and pairs (empty: all)."""
    wanted = (frozenset(checks), frozenset(pairs))
    first = [one for one in before.data["results"] if _wanted(one, *wanted)]
    second = [one for one in after.data["results"] if _wanted(one, *wanted)]
    matched, only_before, only_after = _matched(first, second)
    return Comparison(
        run=tuple(_run_changes(before.data, after.data)),
        results=tuple(_result_change(one, other) for one, other in matched),
        only_before=tuple(_named(one) for one in only_before),
        only_after=tuple(_named(one) for one in only_after),
        collected=tuple(_collected_changes(before, after, *wanted)),
    )


def _wanted(one: Mapping[str, Any], checks: frozenset[str], pairs: frozenset[str]) -> bool:
    return (not checks or one["check"] in checks) and (not pairs or one["pair"] in pairs)


def _named(one: Mapping[str, Any]) -> Named:
    return Named(one["check"], one["pair"], one["test"], str(one["verdict"]))


_Result = dict[str, Any]


def _matched(
    first: list[_Result], second: list[_Result]
) -> tuple[list[tuple[_Result, _Result]], list[_Result], list[_Result]]:
    """Pairs of results of the same check, pair and test; then, where a test was renamed or moved,
    of the same check and pair, if there is just one of it left on either side."""
    matched = []
    for fields in (_KEY, _KEY[:2]):
        exact = fields is _KEY
        waiting: dict[tuple[str, ...], list[_Result]] = defaultdict(list)
        for one in first:
            waiting[tuple(one[field] for field in fields)].append(one)
        others: dict[tuple[str, ...], list[_Result]] = defaultdict(list)
        for other in second:
            others[tuple(other[field] for field in fields)].append(other)
        first, second = [], []
        for key in dict.fromkeys([*waiting, *others]):
            ours, theirs = waiting[key], others[key]
            # Checks made by hand may be several of one test: in the order that it made them.
            count = min(len(ours), len(theirs)) if exact or len(ours) == len(theirs) == 1 else 0
            matched += list(zip(ours[:count], theirs[:count], strict=True))
            first += ours[count:]
            second += theirs[count:]
    return matched, first, second


def _result_change(before: _Result, after: _Result) -> ResultChange:
    changes: list[Change] = []
    provenance: list[Change] = []
    for field in dict.fromkeys([*before, *after]):
        if field in _NOT_COMPARED or _added_later(field, before, after):
            continue
        found = tuple(differing(field, before.get(field), after.get(field)))
        if field == "provenance":
            provenance += [change for change in found if not _another_of_several(change)]
        else:
            changes += found
    return ResultChange(
        check=after["check"],
        pair=after["pair"],
        test=after["test"],
        before=before["verdict"],
        after=after["verdict"],
        changes=tuple(changes),
        provenance=tuple(provenance),
        prompts=prompt_changes(before.get("evidence", []), after.get("evidence", [])),
    )


def _another_of_several(change: Change) -> bool:
    """``cuda:1`` after ``cuda:0``: which of several alike is no change."""
    if not change.place.endswith(".device"):
        return False
    return str(change.before).partition(":")[0] == str(change.after).partition(":")[0]


def differing(place: str, before: Any, after: Any) -> Iterator[Change]:
    """Every value in two pieces of JSON that differs, the smallest that do. Lists of named things
    are compared by name."""
    first, second = _by_name(before), _by_name(after)
    if first is None or second is None:
        if before != after or isinstance(before, bool) is not isinstance(after, bool):
            yield Change(place, before, after)
        return
    for name in dict.fromkeys([*first, *second]):
        if not _added_later(name, first, second):
            yield from differing(f"{place}.{name}", first.get(name), second.get(name))


def _added_later(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """A field that only a later version writes, and that says nothing here."""
    absent = name not in first or name not in second
    return absent and not first.get(name) and not second.get(name)


def _by_name(value: Any) -> Mapping[str, Any] | None:
    """An object as it is, a list of objects by the name that each has; None for anything else."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        return None
    for field in ("name", "category", "part", "id", "strength", "config"):
        names = [str(item[field]) for item in value if field in item]
        if len(names) == len(value) == len(set(names)):
            return dict(zip(names, value, strict=True))
    return None


def _run_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for field in ("tool", "integrity_failures"):
        yield from differing(field, before.get(field), after.get(field))
    first, second = before["run"], after["run"]
    for field in dict.fromkeys([*first, *second]):
        if field not in _OF_EVERY_RUN and not _added_later(field, first, second):
            yield from differing(f"run.{field}", first.get(field), second.get(field))


def _collected_changes(
    before: ReadReport, after: ReadReport, checks: frozenset[str], pairs: frozenset[str]
) -> Iterator[Named]:
    """Checks that were collected in one run alone, and those with another state or outcome."""
    first, second = (
        {
            (one["check"], one["pair"], one["test"]): _state(one)
            for one in report.data["run"]["checks"]
            if _wanted(one, checks, pairs)
        }
        for report in (before, after)
    )
    for key in dict.fromkeys([*first, *second]):
        states = [found.get(key, "not collected") for found in (first, second)]
        if states[0] != states[1]:
            yield Named(*key, f"{states[0]} -> {states[1]}")


def _state(one: Mapping[str, Any]) -> str:
    outcome = one.get("outcome")
    return f"{one['state']} ({outcome})" if outcome else str(one["state"])
