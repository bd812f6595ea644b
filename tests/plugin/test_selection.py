"""However tests of a suite are left out, the report says so: a certificate relies on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_compsec.selection import selection
from tests.inner_pytest import forget_the_outer_run
from tests.plugin.conftest import Project

OURS = "@safety_preserved(prompts='own', variants='good')\ndef test_{}(): pass\n"
HEAD = "from pytest_compsec import safety_preserved\n"
INI = "[pytest]\naddopts = -ra{}\n"


@pytest.fixture
def folder(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite with tests in two folders. Nothing is run here: pytest reads its arguments."""
    forget_the_outer_run(monkeypatch)
    for name in ("test_good.py", "sub/test_sub.py"):
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEAD + OURS.format("it"), encoding="utf-8")
    files = {
        "compsec.yaml": "",
        "args.txt": "test_good.py\n",
        "pytest.ini": INI.format(""),
        "other.ini": INI.format(" test_good.py"),
    }
    for name, text in files.items():
        (pytester.path / name).write_text(text, encoding="utf-8")
    return pytester.path


def selection_of(pytester: pytest.Pytester, *arguments: str) -> list[str]:
    return list(selection(pytester.parseconfig(*arguments), [pytester.path]))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), []),
        ((".",), []),
        (("test_good.py",), ["test_good.py", "sub/test_sub.py"]),
        (("@args.txt",), ["test_good.py", "sub/test_sub.py"]),
        (("-c", "other.ini"), ["test_good.py", "sub/test_sub.py"]),
        (("-o", "python_functions=test_good"), ["-o python_functions=test_good"]),
        (("sub",), ["test_good.py"]),
        (("--pyargs", "test_good"), ["--pyargs", "test_good.py", "sub/test_sub.py"]),
        (("-o", "python_files=test_s*.py"), ["-o python_files=test_s*.py"]),
        (("-o", "console_output_style=classic"), []),
    ],
    ids=str,
)
def test_a_choice_of_tests_is_told(
    folder: Path, pytester: pytest.Pytester, arguments: tuple[str, ...], told: list[str]
) -> None:
    assert selection_of(pytester, *arguments) == told


def test_a_choice_from_the_environment_is_told(
    folder: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "test_good.py")
    assert selection_of(pytester) == ["test_good.py", "sub/test_sub.py"]


def test_other_folders_count_where_their_tests_are_of_this_suite(
    folder: Path, pytester: pytest.Pytester
) -> None:
    """Neither a test that does not speak of us, nor what pytest would not collect, nor the tests
    of a suite of their own."""
    names = ("plain/test_plain.py", "other/test_o.py", "env/test_e.py", "node_modules/test_m.py")
    for name in names:
        path = folder / name
        path.parent.mkdir()
        path.write_text(HEAD + OURS.format("it"), encoding="utf-8")
    (folder / names[0]).write_text("def test_plain(): pass\n", encoding="utf-8")
    (folder / "other" / "compsec.yaml").touch()
    (folder / "env" / "pyvenv.cfg").touch()
    assert selection_of(pytester, "sub") == ["test_good.py"]


@pytest.mark.parametrize("mode", ["n2", "without-xdist"])
@pytest.mark.parametrize("by_name", [False, True], ids=["beside", "named"])
def test_the_report_of_a_run_tells_it(project: Project, by_name: bool) -> None:
    """Also where the config lies apart from the tests, and is given by its name."""
    for name in ("a", "b"):
        (project.path / name).mkdir()
        (project.path / name / "test_it.py").write_text(HEAD + OURS.format(name), encoding="utf-8")
    config = ["--compsec-config=compsec.yaml"] if by_name else []
    project.run("a", *config, "--compsec-report=out.json")
    data = json.loads((project.path / "out.json").read_text(encoding="utf-8"))
    assert data["run"]["selection"] == ["b/test_it.py"]
