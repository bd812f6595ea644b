"""What the documents on classifiers and threats show is accepted: their configs load, their code
compiles, their markers take the arguments, and the tests and places that they name exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import ConfigError
from pytest_compsec.markers import MARKERS

ROOT = Path(__file__).resolve().parents[2]
CLASSIFIERS = ROOT / "docs" / "classifiers.md"
THREATS = ROOT / "docs" / "threats.md"
DOCUMENTS = pytest.mark.parametrize("document", [CLASSIFIERS, THREATS], ids=lambda path: path.name)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_TEST_ID = re.compile(r"`(tests/[\w/]+\.py)((?:::\w+)*)`")
_LINK = re.compile(r"\]\(([^)\s]*)\)")
_TEXT_TRIGGERS = ("phrase", "token")


def blocks(document: Path, language: str) -> list[str]:
    return [
        text for _, found, text in _FENCE.findall(document.read_text("utf-8")) if found == language
    ]


def configs(document: Path) -> Iterator[str]:
    """Every config of a document: whole, or a part in a model of its own."""
    for text in blocks(document, "yaml"):
        if text.startswith("version:"):
            yield text
            continue
        for part in text.split("---\n"):
            yield _around(part)


def _around(part: str) -> str:
    (key,) = yaml.safe_load(part)
    text = key == "backdoor" and any(kind in part for kind in _TEXT_TRIGGERS)
    lines = {
        "task": f"task: {'text' if text else 'image'}-classification",
        "original": 'original: {source: "python:nets:build", weights: ./net.safetensors}',
        "compressed": "compressed: {int8: {quantize: {method: bitsandbytes, bits: 8}}}",
    }
    lines[key] = part.replace("\n", "\n    ").rstrip()
    return "version: 1\nmodels:\n  net:\n    " + "\n    ".join(lines.values()) + "\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """A config in a directory with all files that it names; nobody opens them here."""

    def written(text: str) -> Path:
        for name in re.findall(r"\./([\w/.-]+)", text):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.suffix:
                path.mkdir(exist_ok=True)
            elif not path.exists():
                path.write_bytes(b"")
        (tmp_path / "compsec.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "compsec.yaml"

    return written


@DOCUMENTS
def test_every_config_is_accepted(document: Path, write: Callable[[str], Path]) -> None:
    found = list(configs(document))
    assert found
    for text in found:
        load_config(write(text))


def test_every_kind_of_trigger_is_shown(write: Callable[[str], Path]) -> None:
    shown = {
        entry.backdoor.kind
        for text in configs(CLASSIFIERS)
        for entry in load_config(write(text)).config.models.values()
        if entry.backdoor is not None
    }
    assert shown == {"patch", "blended", "phrase", "token", "callable"}


def test_a_slip_in_a_config_would_be_seen(write: Callable[[str], Path]) -> None:
    """Or else the tests above would show nothing."""
    texts = list(configs(CLASSIFIERS))
    slips = [
        (texts[0], "evaluation_data", "evaluation-data"),
        (texts[0], "share: 0.3", "shares: 0.3"),
        (texts[1], "position: bottom-right", "position: bottom-rihgt"),
    ]
    for text, right, wrong in slips:
        assert right in text
        with pytest.raises(ConfigError):
            load_config(write(text.replace(right, wrong)))


@DOCUMENTS
def test_every_piece_of_python_compiles(document: Path) -> None:
    for text in blocks(document, "python"):
        compile(text, str(document), "exec")


def marked(document: Path) -> Iterator[pytest.Mark]:
    """The marks on the tests of a document; its tests are defined and not run."""
    for text in blocks(document, "python"):
        if "def test_" not in text:
            continue
        names: dict[str, Any] = {}
        exec(text, names)
        for name, value in names.items():
            if name.startswith("test_"):
                yield from getattr(value, "pytestmark", ())


def test_every_marker_takes_its_arguments() -> None:
    """Each marker of classifiers is shown at least once."""
    marks = list(marked(CLASSIFIERS))
    for mark in marks:
        MARKERS[mark.name].arguments(*mark.args, **mark.kwargs)
    shown = {mark.name for mark in marks}
    images = "image-classification"
    assert shown == {name for name, marker in MARKERS.items() if images in marker.tasks}


@DOCUMENTS
def test_the_tests_that_it_names_exist(document: Path) -> None:
    found = set(_TEST_ID.findall(document.read_text("utf-8")))
    assert found or document is not THREATS
    for name, test in found:
        path = ROOT / name
        assert path.is_file(), name
        functions = {
            node.name
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.FunctionDef)
        }
        assert not test or test.removeprefix("::") in functions, f"{name}{test}"


def test_every_marker_that_meets_a_threat_has_its_statistics() -> None:
    table = THREATS.read_text("utf-8").partition("## The statistics of each marker")[2]
    rows = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    taking_attacks = {name for name, marker in MARKERS.items() if marker.fixtures}
    assert rows == taking_attacks | {"no_safety_bypass", "edge_cases_preserved"}


@DOCUMENTS
def test_links_lead_somewhere(document: Path) -> None:
    for link in _LINK.findall(document.read_text("utf-8")):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(document: Path) -> set[str]:
    """The anchors that headings get, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}
