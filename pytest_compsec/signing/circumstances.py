"""What a certificate says beyond its result, in the words of its reader: the numbers of each check,
what it ran with, and what it does not show.

All of it comes from signed text, whose shape is only ours where we wrote it: nothing here breaks on
another, and what is missing is said to be missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_compsec.reports.text import one_line
from pytest_compsec.signing.statement import Statement

_NUMBERS = ("verdict", "summary", "limit", "confidence", "arguments", "unmeasured")


def checks_of(statement: Statement) -> list[dict[str, Any]]:
    """Each check: name, verdict and its sentence, limit, confidence, ``n`` (prompts or samples that
    the numbers are of; None where its check has no such count) and ``measured_with``. JSON-safe."""
    found = []
    for check in _entries(statement.told.get("checks")):
        result = mapping(check.get("result"))
        found.append(
            {
                "name": check.get("name"),
                "outcome": check.get("outcome"),
                **{key: result.get(key) for key in _NUMBERS},
                "n": mapping(result.get("measurement")).get("n"),
                "measured_with": dict(mapping(check.get("measured_with"))),
            }
        )
    return found


def number_line(check: Mapping[str, Any]) -> str:
    """Of one entry of :func:`checks_of`: margin, confidence, prompts, judge, as exact as signed."""
    used = mapping(check.get("measured_with"))
    prompts, judge = mapping(used.get("prompts")), mapping(used.get("judge"))
    parts = [
        f"{key} {one_line(str(check[key]), 40)}"
        for key in ("limit", "confidence", "n")
        if check.get(key) is not None
    ]
    if prompts:
        parts.append(
            f"{_text(prompts, 'count')} prompts of {_text(prompts, 'name')} "
            f"(version {_text(prompts, 'version')})"
        )
    if judge:
        parts.append(f"judge {_text(judge, 'name')} version {_text(judge, 'version')}")
    return ", ".join(parts)


def original_lines(statement: Statement) -> Iterator[str]:
    """What it was compared with: name, source, and its files of weights by sha256."""
    original = mapping(statement.told.get("original"))
    if not original:
        yield "the certificate does not say with what it was compared"
        return
    yield f"{_text(original, 'name')}, {_text(original, 'source')}"
    files = list(_entries(original.get("files")))
    for file in files:
        yield f"sha256 {_text(file, 'sha256')}  {_text(file, 'path')}"
    if not files:
        yield (
            "a server answered for it: nobody saw its weights"
            if original.get("served")
            else "its files are not named"
        )


def run_lines(statement: Statement) -> Iterator[str]:
    """How answers were made, the float types and devices, machine and versions of libraries."""
    told = statement.told
    yield from dict.fromkeys(_loaded(check) for check in checks_of(statement))
    for entry in _entries(told.get("run_with")):
        machine, libraries = mapping(entry.get("machine")), mapping(entry.get("libraries"))
        if machine:
            gpus = machine.get("gpus")
            names = [
                *(str(one) for one in (gpus if isinstance(gpus, list) else ())),
                str(machine.get("processor_model") or machine.get("processor") or ""),
                f"Python {machine.get('python', '?')}",
            ]
            yield one_line(", ".join(name for name in names if name), 200)
        if libraries:
            versions = (f"{name} {version}" for name, version in libraries.items())
            yield one_line(", ".join(versions), 400)
    if not told.get("run_with"):
        yield "the certificate does not say with which libraries"


def not_shown(statement: Statement) -> Iterator[str]:
    """What the certificate does not speak of, in sentences."""
    names = statement.told.get("not_run")
    if not isinstance(names, list):
        yield "the certificate does not say which checks were never run"
    elif names:
        yield f"never run on it: {', '.join(one_line(str(name), 60) for name in names)}"
    yield f"anything but these prompts and data{_answers(statement)}, as judged here"


def mapping(value: object) -> Mapping[str, Any]:
    """``value`` where it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def _loaded(check: Mapping[str, Any]) -> str:
    used = mapping(check.get("measured_with"))
    original, compressed = (_placed(used.get(part)) for part in ("original", "compressed"))
    if not compressed and not original:
        return "the certificate does not say in which float type, and on which device"
    loaded = compressed if compressed == original else f"{compressed} (original: {original})"
    generation = mapping(used.get("generation"))
    if not generation:
        return loaded
    settings = ", ".join(f"{key} {value}" for key, value in generation.items())
    return f"{loaded}; {one_line(settings)}"


def _placed(value: object) -> str:
    arm = mapping(value)
    runtime = arm.get("runtime")
    name = mapping(runtime).get("name") or runtime
    where = [
        str(arm["dtype"]) if arm.get("dtype") else "",
        f"on {arm['device']}" if arm.get("device") else "",
        f"in {name}" if name else "",
    ]
    return one_line(" ".join(word for word in where if word))


def _answers(statement: Statement) -> str:
    """How long the answers were, where every check that says so says the same."""
    lengths = {
        (str(generation.get("decoding")), str(generation["max_new_tokens"]))
        for check in checks_of(statement)
        if "max_new_tokens"
        in (generation := mapping(mapping(check["measured_with"]).get("generation")))
    }
    told = " or ".join(
        f"{one_line(decoding, 20)} answers of at most {one_line(tokens, 20)} tokens"
        for decoding, tokens in sorted(lengths)
    )
    return f", {told}" if told else ""


def _entries(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, Mapping))


def _text(value: Mapping[str, Any], key: str) -> str:
    return one_line(str(value.get(key)), 120) if value.get(key) is not None else "(unnamed)"
