"""The page of markers: arguments, defaults and identifiers of frameworks, from the registry."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from docs_site.text import cell, code, prose, table
from pytest_compsec.frameworks import NIST, OWASP, frameworks_of
from pytest_compsec.markers import MARKERS, REGISTERED, CheckMarker
from pytest_compsec.presets import SUITE

_INTRODUCTION = """\
# Markers

Each is a decorator of `pytest_compsec` and a mark (`@pytest.mark.NAME(...)`), takes keyword
arguments only, and works on a function, a class or a module. `pytest --markers` prints the same
signatures.
What the verdicts rest on: [checks](../checks.md) and [statistics](../statistics.md).
"""


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
    """Purpose, signature, arguments and docstring of one marker."""
    parameters = inspect.signature(marker.arguments).parameters.values()
    rows = [
        (code(parameter.name), code(_annotation(parameter)), _default(parameter))
        for parameter in parameters
    ]
    found = frameworks_of(marker.name).text()
    parts = [
        f"## `{marker.name}` {{ #{marker.name} }}",
        cell(marker.purpose).capitalize(),
        table(["argument", "type", "default"], rows),
        prose(marker.arguments.__doc__),
        f"Works on: {', '.join(code(task) for task in marker.tasks)}.",
    ]
    if marker.fixtures:
        parts.append(f"Takes from fixtures: {', '.join(map(code, marker.fixtures))}.")
    if found:
        parts.append(f"Evidence for: {found}.")
    if marker.name == SUITE:
        parts.insert(2, f"One of {len(MARKERS)} checks has its own marker above.")
    return "\n\n".join(parts)


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
