"""The documents on the checks: examples that work, identifiers that are the code's, links that lead
somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import pytest_compsec
from pytest_compsec.cli import build_parser
from pytest_compsec.frameworks import FRAMEWORKS, NIST
from pytest_compsec.markers import MARKERS, REGISTERED
from tests.unit.test_docs_classifiers import _LINK, anchors, blocks

ROOT = Path(__file__).resolve().parents[2]
CHECKS = ROOT / "docs" / "checks.md"
METHODOLOGY = ROOT / "docs" / "methodology.md"
README = ROOT / "README.md"
DOCUMENTS = pytest.mark.parametrize(
    "document", [CHECKS, METHODOLOGY, README], ids=lambda path: path.name
)


def sections() -> dict[str, str]:
    """The text under each marker's heading."""
    parts = re.split(r"^## `(\w+)`$", CHECKS.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_check_is_described_or_says_where() -> None:
    elsewhere = re.findall(r"^\| `(\w+)` \|", CHECKS.read_text("utf-8").split("\n## ")[0], re.M)
    assert {*sections(), *elsewhere} >= set(MARKERS)
    assert not set(sections()) & set(elsewhere)


@pytest.mark.parametrize("name", [name for name in sections() if name in MARKERS])
def test_a_section_names_the_identifiers_of_the_code(name: str) -> None:
    text = sections()[name]
    found = FRAMEWORKS[name]
    assert set(re.findall(r"LLM\d\d", text)) == set(found.owasp)
    assert {entry for entry in NIST if re.search(rf"{re.escape(entry)}\b", text)} == set(found.nist)


@pytest.mark.parametrize("name", list(sections()))
def test_the_example_of_a_section_is_accepted(name: str) -> None:
    names: dict[str, Any] = {key: getattr(pytest_compsec, key) for key in pytest_compsec.__all__}
    shown = [text for text in blocks_of(sections()[name], "python") if "def test_" in text]
    assert shown
    for text in shown:
        exec(text, names)
    marks = [
        mark
        for key, value in names.items()
        if key.startswith("test_")
        for mark in getattr(value, "pytestmark", ())
    ]
    assert name in {mark.name for mark in marks}
    for mark in marks:
        REGISTERED[mark.name].arguments(*mark.args, **mark.kwargs)


def blocks_of(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@DOCUMENTS
def test_python_compiles(document: Path) -> None:
    for text in blocks(document, "python"):
        compile(text, str(document), "exec")


@DOCUMENTS
def test_links_lead_somewhere(document: Path) -> None:
    for link in _LINK.findall(document.read_text("utf-8")):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


@DOCUMENTS
def test_every_command_that_is_named_exists(document: Path) -> None:
    (commands,) = (
        action.choices for action in build_parser()._actions if isinstance(action.choices, dict)
    )
    for name in re.findall(r"`compsec ([a-z]+)", document.read_text("utf-8")):
        assert name in commands, name
