"""The page of markers: arguments, defaults and identifiers of frameworks, from the registry."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator

from docs_site.text import code, prose, table, upper_first
from pytest_compsec.frameworks import NIST, OWASP, frameworks_of
from pytest_compsec.markers import MARKERS, REGISTERED, CheckMarker
from pytest_compsec.presets import LEVELS, SUITE

_INTRODUCTION = """\
# Markers

Each is a decorator of `pytest_compsec` and a mark (`@pytest.mark.NAME(...)`), takes keyword
arguments only, and works on a function, a class or a module. `pytest --markers` prints the same
signatures.
What the verdicts rest on: [checks](../checks.md) and [statistics](../statistics.md).
"""
_VALIDATES = re.compile(r"Validate the marker's arguments\.\s+Raises ValueError in plain words\.")


def markers_page() -> str:
    """The page as Markdown."""
    rows = [(f"[`{name}`](#{name})", marker.purpose) for name, marker in REGISTERED.items()]
    return "\n\n".join(
        [
            _INTRODUCTION,
            table(["marker", "holds when"], rows),
            *(section(marker) for marker in REGISTERED.values()),
            _frameworks(),
        ]
    )


def section(marker: CheckMarker[object]) -> str:
    """Purpose, signature, arguments and docstrings of one marker."""
    parameters = inspect.signature(marker.arguments).parameters.values()
    rows = [
        (code(parameter.name), code(_annotation(parameter)), _default(parameter))
        for parameter in parameters
    ]
    found = frameworks_of(marker.name).text()
    parts = [
        f"## `{marker.name}` {{ #{marker.name} }}",
        _levels(marker) if marker.name == SUITE else _asks(marker),
        table(["argument", "type", "default"], rows),
        _meanings(marker),
    ]
    if marker.name != SUITE:
        parts.append(f"Works on: {', '.join(code(task) for task in marker.tasks)}.")
    if marker.fixtures:
        parts.append(f"Takes from fixtures: {', '.join(map(code, marker.fixtures))}.")
    if found:
        parts.append(f"Evidence for: {found}.")
    return "\n\n".join(parts)


def _asks(marker: CheckMarker[object]) -> str:
    """What the check asks, as the module says that measures it."""
    text = prose(sys.modules[marker.measure.__module__].__doc__)
    return upper_first(text.removeprefix(f"`{marker.name}`: "))


def _meanings(marker: CheckMarker[object]) -> str:
    """What the arguments mean, without what every such function does."""
    first, _, rest = prose(marker.arguments.__doc__).partition("\n\n")
    if not _VALIDATES.fullmatch(first):
        raise ValueError(f"{marker.name}: the docstring of its arguments begins otherwise: {first}")
    return rest


def _levels(marker: CheckMarker[object]) -> str:
    """The purpose of the marker that stands for many, and its checks."""
    rows = [
        (code(level), ", ".join(f"[`{name}`](#{name})" for name in checks))
        for level, checks in LEVELS.items()
    ]
    return "\n\n".join(
        [
            upper_first(marker.purpose),
            "Each of its checks has a marker of its own above, and is made on the models that it "
            "works on: a language model gets no pixels, a model without a trigger no backdoor "
            "check. The run says what it leaves out where.",
            table(["level", "checks"], rows),
        ]
    )


def _annotation(parameter: inspect.Parameter) -> str:
    text = parameter.annotation
    return text if isinstance(text, str) else getattr(text, "__name__", str(text))


def _default(parameter: inspect.Parameter) -> str:
    return "required" if parameter.default is parameter.empty else code(repr(parameter.default))


def _frameworks() -> str:
    rows = [*_rows("OWASP", OWASP), *_rows("NIST", NIST)]
    return "\n\n".join(
        [
            "## Identifiers",
            "OWASP Top 10 for LLM Applications 2025, and subcategories of the NIST AI Risk "
            "Management Framework 1.0. A check gives evidence for an entry; it does not "
            "discharge it.",
            table(["identifier", "is about", "checks"], rows),
        ]
    )


def _rows(family: str, names: object) -> Iterator[tuple[str, str, str]]:
    assert hasattr(names, "items")
    for identifier, meaning in names.items():
        checks = [
            f"[`{name}`](#{name})"
            for name in MARKERS
            if identifier in (*frameworks_of(name).owasp, *frameworks_of(name).nist)
        ]
        yield f"{family} {identifier}", meaning, ", ".join(checks)
