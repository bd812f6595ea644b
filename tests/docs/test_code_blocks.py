"""Every fenced block of the documentation is what it says: configs are accepted, command lines
parse, test files are collected, names that are imported exist. Those that can be run are run:
``test_python_blocks.py``, ``test_console_blocks.py``, ``test_tutorial.py``."""

from __future__ import annotations

import ast
import csv
import importlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import ConfigError
from tests.docs.collecting import collect, load_with_extensions, make_project, prelude
from tests.docs.command_lines import problem
from tests.docs.fences import PAGES, ROOT, Fence, commands, every_fence, fences
from tests.docs.project_file import read_toml
from tests.docs.workflows import steps_of_github, steps_of_gitlab
from tests.docs.yaml_blocks import configs, kind, write_with_its_files

LANGUAGES = {
    "bash", "console", "csv", "json", "jsonl", "python", "text", "toml", "yaml", "ini",
}  # fmt: skip


def per_block(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fence", every_fence(*languages), ids=str)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_block_says_its_language(page: Path) -> None:
    found = list(fences(page))
    assert {fence.language for fence in found} <= LANGUAGES, [
        str(fence) for fence in found if fence.language not in LANGUAGES
    ]


@per_block("bash", "console")
def test_command_lines_parse(fence: Fence, pytestconfig: pytest.Config) -> None:
    found = list(commands(fence))
    assert found
    for words in found:
        assert problem(words, pytestconfig) is None, " ".join(words)


@per_block("yaml")
def test_yaml_is_accepted(fence: Fence, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    shown = kind(fence)
    if shown == "compsec":
        found = list(configs(fence))
        assert found
        for number, text in enumerate(found):
            folder = tmp_path / str(number)
            folder.mkdir()
            path = write_with_its_files(text, folder)
            # Its judge and its method are those of a distribution of the tests.
            (load_with_extensions if fence.page == "docs/extending.md" else load_config)(path)
        return
    data = yaml.safe_load(fence.text)
    if shown == "pre-commit":
        hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
        assert {hook["id"] for repo in data["repos"] for hook in repo["hooks"]} <= {
            hook["id"] for hook in hooks
        }
        return
    for words in (steps_of_github if shown == "github" else steps_of_gitlab)(data):
        assert problem(words, pytestconfig) is None, " ".join(words)


@per_block("json", "jsonl", "toml", "csv")
def test_data_is_read(fence: Fence) -> None:
    if fence.language == "toml":
        assert read_toml(fence.text)
    elif fence.language == "csv":
        head, *rows = csv.reader(io.StringIO(fence.text))
        assert rows
        assert {len(row) for row in rows} == {len(head)}
    elif fence.language == "jsonl":
        assert [json.loads(line) for line in fence.text.splitlines()]
    else:
        assert json.loads(fence.text)


@per_block("python")
def test_python_imports_what_exists(fence: Fence) -> None:
    """Compiled; modules of this package are imported and have the names."""
    for node in ast.walk(ast.parse(fence.text, str(fence))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pytest_compsec"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("pytest_compsec"):
                    importlib.import_module(alias.name)


def test_files_of_tests_are_collected(tmp_path: Path) -> None:
    """All of them in one project, whose suite has the models and prompt sets that they name."""
    shown = [fence for fence in every_fence("python") if "def test_" in fence.text]
    assert len(shown) > 10
    make_project(tmp_path)
    names = {}
    for number, fence in enumerate(shown):
        path = tmp_path / f"test_block_{number}.py"
        path.write_text(prelude(fence.text) + fence.text, encoding="utf-8")
        names[path.name] = str(fence)
    lines, ended = collect(tmp_path)
    output = "\n".join(lines)
    for name, where in names.items():
        output = output.replace(f"{name}:", f"{name} ({where}):")
    assert ended == 0, output
    for name, where in names.items():
        assert any(line.startswith(name) for line in lines), f"{where}: no test"


def test_a_slip_in_a_test_would_be_seen(tmp_path: Path) -> None:
    make_project(tmp_path)
    path = tmp_path / "test_slip.py"
    text = "@safety_preserved(max_degradatoin=0.02)\ndef test_it(model_pair): ...\n"
    path.write_text(prelude(text) + text, encoding="utf-8")
    lines, ended = collect(tmp_path)
    assert ended == 4
    assert any("did you mean 'max_degradation'?" in line for line in lines)


def planted(language: str, text: str) -> Iterator[Fence]:
    yield Fence("planted.md", 1, language, text)


@pytest.mark.parametrize(
    "line",
    [
        "compsec verfy",
        "compsec verify-certificate x.intoto.json --pubkey k.pem",
        "pytest --compsec-reports=x.html",
        "pytest tests --compsec-signkey=k.pem",
        'pip install "pytest-compsec[bitsandbites]"',
        "cd somewhere && compsec pin --exepct a=b",
        "OMP_NUM_THREADS=1 python -m pytest --compsec-ful",
        "make exampel",
        "python -m bench.cost.tabel",
        "python -m no_such_package verify",
    ],
)
def test_a_slip_in_a_command_would_be_seen(line: str, pytestconfig: pytest.Config) -> None:
    (fence,) = planted("console", f"$ {line}\nits output\n")
    assert any(problem(words, pytestconfig) for words in commands(fence))


@pytest.mark.parametrize(
    "text",
    [
        "judge: refusal\njudge: {keyword: {}}\n",
        "compressed:\n  int8: {quantise: {method: bitsandbytes, bits: 8}}\n",
        "version: 1\nmodels:\n  a:\n    original: {source: ./a, dype: float32}\n"
        "    compressed: {b: {source: ./b}}\n",
    ],
)
def test_a_slip_in_a_config_would_be_seen(text: str, tmp_path: Path) -> None:
    (fence,) = planted("yaml", text)

    def load_all() -> None:
        for number, whole in enumerate(configs(fence)):
            (tmp_path / str(number)).mkdir()
            load_config(write_with_its_files(whole, tmp_path / str(number)))

    with pytest.raises((ConfigError, ValueError)):
        load_all()


def test_a_block_without_language_or_end_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```\nmake\n```\n")
    assert [fence.language for fence in fences(page)] == [""]
    page.write_text("```bash\nmake\n")
    with pytest.raises(ValueError, match="does not end"):
        list(fences(page))


def test_no_page_names_a_block_by_another_way_of_fencing() -> None:
    """Blocks by indentation or tildes would not be looked at."""
    for page in PAGES:
        assert not re.search(r"^ *~~~", page.read_text("utf-8"), re.MULTILINE), page
