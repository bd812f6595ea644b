"""The documentation site: it builds without a warning, fetches nothing, has every page; links that
leave ``docs`` are rewritten, and the generated pages say what the code says."""

from __future__ import annotations

import inspect
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs_site.commands_page import commands_page, subcommands
from docs_site.config_page import config_page
from docs_site.generated import pages
from docs_site.links import site_text
from docs_site.markers_page import markers_page
from docs_site.options_page import options_page, recorded, twin
from docs_site.report_page import report_page
from docs_site.text import prose
from docs_site.words_of_keys import words_of
from docs_site.words_of_methods import METHOD_KEYS, OF_ONE_METHOD
from pytest_compsec.config.schema import Config
from pytest_compsec.frameworks import frameworks_of
from pytest_compsec.markers import REGISTERED
from pytest_compsec.presets import LEVELS, SUITE
from tests.docs.fences import DOCS, ROOT

_FETCHING = re.compile(
    r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(https?:)?//[^\"]+\"[^>]*>", re.IGNORECASE
)


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("docs/checks.md", "[R](../README.md#prompts)", "[R](overview.md#prompts)"),
        ("docs/how-to/sign.md", "[R](../../README.md)", "[R](../overview.md)"),
        ("docs/checks.md", "[S](statistics.md#a)", "[S](statistics.md#a)"),
        ("docs/how-to/sign.md", "[S](../served.md)", "[S](../served.md)"),
        ("docs/gpus.md", "[`b`](../bench/README.md)", "`b`"),
        ("docs/gpus.md", "[how](../bench/README.md#x)", "how (`bench/README.md`)"),
        ("docs/gpus.md", "[w](https://example.org/a)", "[w](https://example.org/a)"),
        ("README.md", "[d](docs/served.md#x), ![m](docs/matrix.svg)",
         "[d](served.md#x), ![m](matrix.svg)"),
        ("README.md", "[`example_suite`](example_suite/README.md)", "`example_suite`"),
        ("docs/a.md", "```text\n[R](../README.md)\n```\n", "```text\n[R](../README.md)\n```\n"),
    ],
)  # fmt: skip
def test_links_of_the_site(page: str, text: str, expected: str) -> None:
    assert site_text(text, page) == expected


def test_every_argument_of_every_marker_is_on_the_page() -> None:
    text = markers_page()
    for name, marker in REGISTERED.items():
        section = text.split(f"## `{name}` {{", 1)[1].split("\n## ", 1)[0]
        for parameter in inspect.signature(marker.arguments).parameters.values():
            assert f"| `{parameter.name}` |" in section, f"{name}: {parameter.name}"
            if parameter.default is not parameter.empty:
                assert f"`{parameter.default!r}`" in section, f"{name}: {parameter.name}"
        found = frameworks_of(name)
        for identifier in (*found.owasp, *found.nist):
            assert identifier in section, f"{name}: {identifier}"


def test_every_option_command_and_key_is_on_a_page() -> None:
    found = recorded()
    text = options_page()
    assert len(found.options) > 10
    for option in found.options:
        assert f"`{option}" in text, option
    for name in found.ini:
        assert f"| `{name}` |" in text, name
    text = commands_page()
    for name, parser in subcommands().items():
        section = text.split(f"## `compsec {name}` {{", 1)[1].split("\n## ", 1)[0]
        for action in parser._actions:
            assert all(word in section for word in action.option_strings if "-h" not in word), name
    text = config_page()
    for key in Config.model_fields:
        assert f"| `{key}` |" in text, key
    assert "| `verdicts` |" in report_page()


def test_every_key_of_the_config_has_words() -> None:
    schema = Config.model_json_schema()
    shown = {"Config": schema, **schema["$defs"]}
    assert {"ModelEntry", "SourceEntry", "VariantEntry", "JudgeEntry"} <= set(shown)
    without = [
        f"{name}.{key}"
        for name, section in shown.items()
        for words in [words_of(name)]
        for key in section.get("properties", ())
        if not words.get(key, "").endswith(".")
    ]
    assert without == []
    meanings = re.findall(r"^\| `\w+` \|.*\| ([^|]*) \|$", config_page(), re.MULTILINE)
    assert len(meanings) > 100
    assert all(text.strip() for text in meanings)


def test_no_words_are_left_of_an_option_that_is_gone() -> None:
    sections = Config.model_json_schema()["$defs"]
    options = {key for name, section in sections.items() if name.endswith("Options")
               for key in section.get("properties", ())}  # fmt: skip
    assert set(METHOD_KEYS) <= options
    for name, keys in OF_ONE_METHOD.items():
        assert set(keys) <= set(sections[name]["properties"]), name


def test_a_marker_is_said_in_words_about_what_it_asks() -> None:
    text = markers_page()
    for name in REGISTERED:
        section = text.split(f"## `{name}` {{", 1)[1].split("\n## ", 1)[0]
        first = section.split("\n\n")[1]
        assert first[0].isupper(), name
        assert "Validate" not in section, name
        assert not first.startswith(("`", "As `check_")), f"{name}: {first}"
    assert "Estimand" in text
    suite = text.split(f"## `{SUITE}` {{", 1)[1].split("\n## ", 1)[0]
    # Its levels hold checks for every kind of model.
    assert "Works on" not in suite
    for level, checks in LEVELS.items():
        row = next(line for line in suite.splitlines() if line.startswith(f"| `{level}` |"))
        assert re.findall(r"\(#(\w+)\)", row) == list(checks)


def test_the_twin_of_each_option_is_one_that_pytest_knows() -> None:
    found = recorded()
    alone = {option for option in found.options if not twin(option, found)}
    assert alone == {"--compsec-export-labels"}
    assert {twin(option, found).partition(" =")[0] for option in found.options} - {""} <= set(
        found.ini
    )


def test_docstrings_are_shown_as_markdown() -> None:
    assert prose("See :func:`~a.b.run` and ``x``.") == "See `run` and `x`."


def test_a_row_of_a_table_is_one_line() -> None:
    """What breaks a row would show as text with bars."""
    for name, text in pages(ROOT).items():
        if not name.startswith("reference/") or not name.endswith(".md"):
            continue
        widths = [
            (line, len(re.findall(r"(?<!\\)\|", line)))
            for line in text.splitlines()
            if line.startswith("|")
        ]
        for (before, first), (after, second) in itertools.pairwise(widths):
            if after.startswith("| ---"):
                assert first == second, f"{name}: {before}"
        assert all(line.endswith("|") for line, _ in widths), name


def build(folder: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(folder)],
        cwd=config.parent,
        env={
            **os.environ,
            "NO_MKDOCS_2_WARNING": "1",
            "PYTHONPATH": os.pathsep.join([str(config.parent), *sys.path[1:]]),
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.heavy
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = build(tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    built = sorted((tmp_path / "site").rglob("*.html"))
    names = {path.relative_to(tmp_path / "site").as_posix() for path in built}
    for page in DOCS.rglob("*.md"):
        assert page.relative_to(DOCS).with_suffix(".html").as_posix() in names
    assert {"overview.html", "reference/markers.html"} <= names
    for path in built:
        found = [match[0] for match in _FETCHING.finditer(path.read_text("utf-8"))]
        # The address that a page says it has is not fetched.
        assert not [tag for tag in found if "canonical" not in tag], path.name
    api = (tmp_path / "site" / "reference" / "python.html").read_text("utf-8")
    assert "noninferiority_pvalue" in api
    assert ":func:" not in api


@pytest.mark.heavy
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    for name in ("docs", "docs_site", "pytest_compsec", "mkdocs.yml", "README.md", "example_suite"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").unlink()
    (tmp_path / "docs").mkdir()
    for path in DOCS.iterdir():
        if path.name != "gpus.md":
            (tmp_path / "docs" / path.name).symlink_to(path)
    text = (DOCS / "gpus.md").read_text("utf-8")
    (tmp_path / "docs" / "gpus.md").write_text(text + "\n[nowhere](checks.md#no-such-section)\n")
    done = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode != 0
    assert "no-such-section" in done.stderr
