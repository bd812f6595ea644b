"""A :class:`~pytest_compsec.reports.comparing.Comparison` as lines for people, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_compsec.reports.comparing import Change, Comparison, Named, ResultChange
from pytest_compsec.reports.comparing_prompts import PromptChange, PromptChanges
from pytest_compsec.reports.reading import ReadReport
from pytest_compsec.reports.text import one_line

#: The schema of ``compsec diff --json``.
DIFF_SCHEMA, DIFF_VERSION = "pytest-compsec/diff", 1
VALUES, PROMPTS, NAMES = 14, 40, 8
#: What people look for first; the rest follows in the order of the report.
_FIRST = (
    *("limit", "confidence", "arguments", "withheld", "measurement.n"),
    *("measurement.original_rate", "measurement.compressed_rate"),
    *("measurement.degradation", "measurement.interval", "measurement"),
)
_KINDS = ("newly regressed", "recovered", "changed")


def comparison_lines(
    before: ReadReport, after: ReadReport, found: Comparison, *, show_answers: bool = False
) -> Iterator[str]:
    """All that changed; prompts and answers only with ``show_answers``, cut and escaped."""
    for name, report in (("before", before), ("after", after)):
        facts = report.facts
        yield (
            f"{name.ljust(6)}  {report.path}: {one_line(facts.created, 40)}, "
            f"{len(report.results)} results"
        )
    if not found.changed:
        yield f"nothing changed in {_count(len(found.results), 'result')}"
        return
    yield from _section("the run", map(_changed, found.run))
    yield from _section("measured with", _provenance(found.results))
    for result in found.results:
        yield from _result(result, show_answers)
    yield from _section("only before", map(_named, found.only_before))
    yield from _section("only after", map(_named, found.only_after))
    yield from _section("collected checks", map(_named, found.collected))
    moved = sum(result.changed for result in found.results)
    yield ""
    yield (
        f"{_count(moved, 'result')} changed, {len(found.results) - moved} did not, "
        f"{len(found.only_before)} only before, {len(found.only_after)} only after"
    )


def comparison_data(
    before: ReadReport, after: ReadReport, found: Comparison, *, show_answers: bool = False
) -> dict[str, Any]:
    """The same as a JSON-safe dict."""
    data = dataclasses.asdict(found)
    for result in data["results"]:
        for change in result["prompts"]["changes"]:
            if not show_answers:
                del change["prompt"]
            else:
                change["prompt"] = one_line(change["prompt"])
            for arm in change["arms"].values():
                for field in ("answer_before", "answer_after"):
                    if show_answers:
                        arm[field] = one_line(arm[field])
                    else:
                        del arm[field]
    reports = {
        name: {"path": str(report.path), "sha256": report.sha256, "created": report.facts.created}
        for name, report in (("before", before), ("after", after))
    }
    head = {"schema": DIFF_SCHEMA, "schema_version": DIFF_VERSION, **reports}
    return {**head, "changed": found.changed, **data}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _section(title: str, lines: Iterator[str] | Sequence[str]) -> Iterator[str]:
    listed = list(lines)
    if listed:
        yield ""
        yield f"{title}:"
        yield from (f"  {line}" for line in listed)


def _changed(change: Change) -> str:
    return f"{one_line(change.place, 120)}: {_shown(change.before)} -> {_shown(change.after)}"


def _named(one: Named) -> str:
    return f"{_title(one.pair, one.check)}: {one_line(one.what, 80)} ({one_line(one.test, 120)})"


def _title(pair: str, check: str) -> str:
    return f"{one_line(pair, 60)} {one_line(check, 60)}"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and all(isinstance(item, float) for item in value):
        return f"[{', '.join(map(_shown, value))}]"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{text[:12]}…" if re.fullmatch(r"[0-9a-f]{64}", text) else one_line(text, 80) or '""'


def _provenance(results: Sequence[ResultChange]) -> Iterator[str]:
    """Each change once, with the pairs that it is of: most are of all."""
    pairs: dict[str, dict[str, None]] = {}
    for result in results:
        for change in result.provenance:
            line = _changed(dataclasses.replace(change, place=change.place.partition(".")[2]))
            pairs.setdefault(line, {})[result.pair] = None
    every = {result.pair for result in results}
    for line, found in pairs.items():
        names = [one_line(pair, 60) for pair in found]
        shown = ", ".join(names[:NAMES])
        more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
        yield f"{line} ({'every pair' if found.keys() == every else shown + more})"


def _result(result: ResultChange, show_answers: bool) -> Iterator[str]:
    if not (result.changes or result.prompts.changed):
        return
    verdicts = result.before
    if result.before != result.after:
        verdicts = f"{result.before} -> {result.after}"
    yield ""
    yield f"{_title(result.pair, result.check)}: {verdicts} ({one_line(result.test, 120)})"
    values = sorted(
        (change for change in result.changes if change.place != "verdict"), key=_importance
    )
    yield from (f"  {_changed(change)}" for change in values[:VALUES])
    if len(values) > VALUES:
        yield f"  and {len(values) - VALUES} more values (--json lists all)"
    if result.prompts.changed:
        yield from (f"  {line}" for line in _prompts(result.prompts, show_answers))


def _importance(change: Change) -> int:
    for at, place in enumerate(_FIRST):
        if change.place == place or change.place.startswith(f"{place}."):
            return at
    return len(_FIRST)


def _prompts(found: PromptChanges, show_answers: bool) -> Iterator[str]:
    parts = [f"{found.count(kind)} {kind}" for kind in _KINDS[:2]]
    parts.append(f"{found.count('changed')} otherwise changed")
    yield f"prompts: of {found.compared} in both, {', '.join(parts)}"
    yield (
        "answers that changed with the same outcome: "
        + ", ".join(f"{count} of the {arm}" for arm, count in found.answers_changed.items())
    )
    for title, ids in (
        ("prompts only before", found.only_before),
        ("prompts only after", found.only_after),
        ("prompts with another text", found.reworded),
    ):
        if ids:
            names = ", ".join(one_line(name, 60) for name in ids[:NAMES])
            more = f" and {len(ids) - NAMES} more" if len(ids) > NAMES else ""
            yield f"{title}: {len(ids)}: {names}{more}"
    ordered = sorted(found.changes, key=lambda change: _KINDS.index(change.kind))
    for change in ordered[:PROMPTS]:
        yield from _prompt(change, show_answers)
    if len(ordered) > PROMPTS:
        yield f"and {len(ordered) - PROMPTS} more prompts (--json lists all)"


def _prompt(change: PromptChange, show_answers: bool) -> Iterator[str]:
    moved = ", ".join(
        f"{name} {arm.before} -> {arm.after}" for name, arm in change.arms.items() if arm.changed
    )
    category = f" [{one_line(change.category, 40)}]" if change.category else ""
    yield f"- {one_line(change.id, 60)}{category} {change.kind}: {moved}"
    if not show_answers:
        return
    yield f"    prompt             | {one_line(change.prompt, 120)}"
    for name, arm in change.arms.items():
        if arm.changed or arm.answer_before != arm.answer_after:
            yield f"    {name.ljust(10)} before  | {one_line(arm.answer_before)}"
            yield f"    {name.ljust(10)} after   | {one_line(arm.answer_after)}"
