"""A project that does not use us notices nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.inner_pytest import forget_the_outer_run
from tests.plugin.conftest import Project

#: Python reads it first of all in every process, workers too: it notes the file of each module that
#: is run, by whatever way it is imported, from the first one to the last, after the tests too.
PROBE = """
import os, sys
log = open(os.path.join(os.path.dirname(__file__), f"imports-{os.getpid()}.txt"), "a", buffering=1)
def note(event, arguments):
    if event == "exec":
        log.write(arguments[0].co_filename + "\\n")
sys.addaudithook(note)
"""
HEAVY = {
    "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy", "scipy",
    "pydantic", "yaml", "jinja2", "matplotlib", "cryptography", "openai",
}  # fmt: skip
MODES = [("-p", "no:xdist"), ("-n0",), ("-n2",)]


@pytest.fixture
def probe(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[set[str]]]:
    """The packages that each process of a run with pytest imported, by their folder's name."""
    forget_the_outer_run(monkeypatch)
    folder = tmp_path_factory.mktemp("probe")
    (folder / "sitecustomize.py").write_text(PROBE, encoding="utf-8")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))

    def found() -> list[set[str]]:
        files = [log.read_text("utf-8").splitlines() for log in folder.glob("imports-*.txt")]
        packages = [{Path(file).parent.name for file in lines} for lines in files]
        return [names for names in packages if "_pytest" in names]

    return found


def processes(arguments: tuple[str, ...]) -> int:
    return 3 if arguments == ("-n2",) else 1


@pytest.mark.parametrize("arguments", MODES)
def test_no_output_no_file_no_import(
    pytester: pytest.Pytester,
    arguments: tuple[str, ...],
    probe: Callable[[], list[set[str]]],
) -> None:
    pytester.makepyfile("def test_of_somebody_else(): pass")
    result = pytester.runpytest_subprocess(*arguments)
    result.assert_outcomes(passed=1)
    imported = probe()
    assert len(imported) == processes(arguments)
    for names in imported:
        assert "pytest_compsec" in names
        assert not names & HEAVY
    text = result.stdout.str() + result.stderr.str()
    # pytest itself lists every installed plugin in one line.
    shown = [line for line in text.splitlines() if not line.startswith("plugins:")]
    assert "compsec" not in "\n".join(shown)
    assert not list(pytester.path.rglob("*compsec*"))
    assert "warning" not in text.lower()


def test_importing_the_plugin_is_cheap_beside_pytest_itself() -> None:
    code = (
        "import time, pytest, unittest\n"
        "start = time.perf_counter(); import pytest_compsec.plugin\n"
        "print(time.perf_counter() - start)\n"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(7)
    ]
    pytest_times = [
        float(
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "import time; s = time.perf_counter(); import pytest; "
                    "print(time.perf_counter() - s)",
                ],
                capture_output=True,
                check=True,
            ).stdout
        )
        for _ in range(7)
    ]
    # A ratio, because machines differ and are shared: pytest takes about 100 ms where 20 ms is
    # what we allow ourselves.
    assert min(times) < 0.5 * min(pytest_times)


@pytest.mark.parametrize("arguments", MODES)
def test_an_import_after_the_test_would_be_seen(
    pytester: pytest.Pytester,
    arguments: tuple[str, ...],
    probe: Callable[[], list[set[str]]],
) -> None:
    pytester.makeconftest(
        "def pytest_unconfigure(config): import importlib; importlib.import_module('yaml')"
    )
    pytester.makepyfile("def test_of_somebody_else(): pass")
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=1)
    assert sum("yaml" in names for names in probe()) == processes(arguments)


def test_collecting_only_measures_and_writes_nothing(project: Project) -> None:
    project.test_file("@safety_preserved(prompts='own', variants='good')\ndef test_good(): pass\n")
    report = project.path / "x.json"
    result = project.run("--collect-only", "-q", "--compsec-report=x.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines("*test_good?assistant-good?*")
    assert project.asked() == []
    assert not report.exists()
    # The same without it: the two lines above look where something would be.
    project.run("--compsec-report=x.json").assert_outcomes(passed=1)
    assert project.asked() != []
    assert report.exists()
