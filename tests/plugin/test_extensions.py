"""A distribution of somebody else (tests/third_party) with a check, a judge, a compression method
and a line at the end of the run; and what becomes of faulty ones."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.inner_pytest import forget_the_outer_run
from tests.unit.tiny_model import make_tiny_checkpoint

THIRD_PARTY = Path(__file__).parents[1] / "third_party"
CONFIG = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      thinned: {prune: {method: every-nth-row, n: 4}}
judge:
  opening: {words: [I cannot]}
"""
TESTS = """
import pytest
from pytest_compsec import Regressed, layers_within

@pytest.mark.largest_weight(max_weight=100.0)
def test_small():
    pass

@pytest.mark.xfail(raises=Regressed, strict=True)
@pytest.mark.largest_weight(max_weight=0.001)
def test_too_large(model_pair):
    pass

def test_by_hand(model_pair, compsec):
    assert compsec.largest_weight(model_pair, max_weight=0.001).verdict == "REGRESSED"
"""
INI = "[pytest]\naddopts = --strict-markers\n"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, and outside of pytester, which forgets the modules that are imported in it."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "original")


@pytest.fixture
def project(original: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    forget_the_outer_run(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = os.pathsep.join([str(THIRD_PARTY), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))
    shutil.copytree(original, pytester.path / "original")
    (pytester.path / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    (pytester.path / "test_tiny.py").write_text(TESTS, encoding="utf-8")
    (pytester.path / "pytest.ini").write_text(INI, encoding="utf-8")
    return pytester.path


def pin(pytester: pytest.Pytester) -> pytest.RunResult:
    return pytester.run(sys.executable, "-m", "pytest_compsec.cli", "pin")


def told(project: Path) -> list[dict[str, Any]]:
    lines = (project / "told.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("mode", [("-p", "no:xdist"), ("-n2",)], ids=["serial", "n2"])
def test_all_that_another_distribution_brings(
    project: Path, pytester: pytest.Pytester, mode: tuple[str, ...]
) -> None:
    pinned = pin(pytester)
    assert pinned.ret == 0, pinned.stderr.str()
    lock = (project / "compsec.lock").read_text(encoding="utf-8")
    assert "compsec-extra" in lock
    assert "every-nth-row" in lock
    assert "opening" in lock
    result = pytester.runpytest_subprocess(*mode, "--compsec-report=out.json")
    result.assert_outcomes(passed=2, xfailed=1)
    result.stdout.fnmatch_lines(["largest_weight, limit*", "*REGRESSED (expected)*"])
    [line] = told(project)  # once, not in every worker
    assert line["paths"] == ["out.json"]
    assert line["exit"] == 0
    assert line["verdicts"] == [
        "largest_weight tiny-thinned PRESERVED",
        "largest_weight tiny-thinned REGRESSED",
        "largest_weight tiny-thinned REGRESSED",
    ]


def test_a_wrong_argument_is_a_usage_error_that_names_the_test(
    project: Path, pytester: pytest.Pytester
) -> None:
    assert pin(pytester).ret == 0
    (project / "test_tiny.py").write_text(
        "import pytest\n\n@pytest.mark.largest_weight(max_wait=1)\ndef test_it(): ...\n",
        encoding="utf-8",
    )
    result = pytester.runpytest_subprocess("-p", "no:xdist")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["*test_it*has no argument 'max_wait'; did you mean 'max_weight'?*"]
    )


def test_another_judge_of_the_same_name_is_not_what_the_lock_pins(
    project: Path, pytester: pytest.Pytester
) -> None:
    assert pin(pytester).ret == 0
    text = CONFIG.replace("[I cannot]", "[I cannot, Sorry]")
    (project / "compsec.yaml").write_text(text, encoding="utf-8")
    verified = pytester.run(sys.executable, "-m", "pytest_compsec.cli", "verify")
    assert verified.ret == 1
    assert "judge" in verified.stdout.str() + verified.stderr.str()


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("opening: {word: [x]}", "*compsec.yaml:8:*word*"),
        ("openning: {words: [x]}", "*compsec.yaml:8:*openning*opening*"),
    ],
)
def test_its_options_are_checked_like_ours(
    project: Path, pytester: pytest.Pytester, judge: str, message: str
) -> None:
    text = CONFIG.replace("opening: {words: [I cannot]}", judge)
    (project / "compsec.yaml").write_text(text, encoding="utf-8")
    result = pin(pytester)
    assert result.ret == 2
    result.stderr.fnmatch_lines([message])
    assert "Traceback" not in result.stderr.str()


def test_without_the_distribution_the_config_is_refused(
    project: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pin(pytester).ret == 0
    others = os.environ["PYTHONPATH"].split(os.pathsep)[1:]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(others))
    result = pin(pytester)
    assert result.ret == 2
    result.stderr.fnmatch_lines(["*every-nth-row*"])


def own_distribution(folder: Path, source: str, group: str = "pytest_compsec") -> None:
    """A distribution of one module in ``folder``, which stands on ``PYTHONPATH``."""
    metadata = folder / "faulty-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\nit = faulty_plugin\n")
    (folder / "faulty_plugin.py").write_text(source, encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nothing_of_this_name", "*'it' of faulty*cannot be loaded*nothing_of_this_name*"),
        ("def pytest_compsec_register_judges():\n    1 / 0", "*faulty*broke: ZeroDivisionError*"),
        ("def pytest_compsec_register_judges():\n    return 7", "*faulty*7*no JudgeKind*"),
        (
            "import compsec_extra as e\npytest_compsec_register_judges = "
            "e.pytest_compsec_register_judges",
            "*the judge 'opening'*there already*",
        ),
        (
            "import dataclasses, compsec_extra as e\n"
            "def pytest_compsec_register_judges():\n"
            "    return dataclasses.replace(e.pytest_compsec_register_judges(), name='refusal')",
            "*'refusal'*one of ours*",
        ),
        (
            "import dataclasses, compsec_extra as e\n"
            "def pytest_compsec_register_compression():\n"
            "    m = e.pytest_compsec_register_compression()\n"
            "    return dataclasses.replace(m, name='magnitude')",
            "*prune: magnitude*there already*",
        ),
        (
            "import dataclasses, compsec_extra as e\n"
            "def pytest_compsec_register_compression():\n"
            "    m = e.pytest_compsec_register_compression()\n"
            "    return dataclasses.replace(m, name='other')",
            "*method: Literal*other*",
        ),
        (
            "import dataclasses, compsec_extra as e\n"
            "def pytest_compsec_register_compression():\n"
            "    m = e.pytest_compsec_register_compression()\n"
            "    return dataclasses.replace(m, name='other', section='distill')",
            "*section 'distill'*",
        ),
    ],
)
def test_a_faulty_distribution_is_named(
    project: Path,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    message: str,
) -> None:
    folder = project / "installed"
    folder.mkdir()
    own_distribution(folder, source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]))
    result = pin(pytester)
    assert result.ret == 2, result.stderr.str()
    result.stderr.fnmatch_lines([message])
    assert "Traceback" not in result.stderr.str()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("return 7", "*of faulty_marker gives 7, which is no CheckMarker*"),
        (
            "from pytest_compsec.markers import CheckMarker\n"
            "    return CheckMarker('safety_preserved', lambda: None, 'x')",
            "*'safety_preserved' is there already*",
        ),
        (
            "from pytest_compsec.markers import CheckMarker\n"
            "    return CheckMarker('not a name', lambda: None, 'x')",
            "*'not a name' is no name*",
        ),
        (
            "from pytest_compsec.markers import CheckMarker\n"
            "    return CheckMarker('skip', lambda: None, 'x')",
            "*of faulty_marker: the marker 'skip' is there already*",
        ),
        ("1 / 0", "*of faulty_marker broke: ZeroDivisionError*"),
    ],
)
def test_a_faulty_marker_is_a_usage_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    forget_the_outer_run(monkeypatch)
    plugin = f"def pytest_compsec_register_checks(config):\n    {source}\n"
    (pytester.path / "faulty_marker.py").write_text(plugin, encoding="utf-8")
    pytester.makepyfile("def test_it(): pass")
    monkeypatch.syspath_prepend(str(pytester.path))
    result = pytester.runpytest_subprocess("-p", "faulty_marker", "-p", "no:xdist")
    assert result.ret == 4
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize("mode", [("-p", "no:xdist"), ("-n2",)], ids=["serial", "n2"])
def test_a_check_that_is_registered_too_late_is_a_usage_error(
    project: Path, pytester: pytest.Pytester, mode: tuple[str, ...]
) -> None:
    """In the conftest.py of a folder below it would be a mark that nothing measures."""
    assert pin(pytester).ret == 0
    (project / "a" / "b").mkdir(parents=True)
    (project / "test_tiny.py").rename(project / "a" / "b" / "test_tiny.py")
    late = "from compsec_extra import pytest_compsec_register_checks\n"
    (project / "a" / "b" / "conftest.py").write_text(late, encoding="utf-8")
    (project / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    result = pytester.runpytest_subprocess(*mode, "-p", "no:compsec_extra")
    assert result.ret not in (0, 5)
    told = result.stdout.str() + result.stderr.str()
    assert "conftest.py: pytest_compsec_register_checks comes too late here" in told
    assert "Traceback" not in told


def test_a_judge_that_nobody_would_ask_for_is_a_usage_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conftest.py is not read where no pytest runs, so its judges are none."""
    forget_the_outer_run(monkeypatch)
    pytester.makeconftest("def pytest_compsec_register_judges():\n    return []\n")
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess("-p", "no:xdist")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["*pytest_compsec_register_judges of *conftest.py would never be called*entry point*"]
    )


def test_the_hook_of_the_end_is_told_what_was_written(
    project: Path, pytester: pytest.Pytester
) -> None:
    """Not what was asked for. A hook that breaks costs neither the others nor the table."""
    assert pin(pytester).ret == 0
    (project / "file").touch()
    broken = "def pytest_compsec_report_finished(config, report, paths):\n    1 / 0\n"
    (project / "conftest.py").write_text(broken, encoding="utf-8")
    wanted = ("file/a.json", "b.json", "b.json")
    result = pytester.runpytest_subprocess(
        "-p", "no:xdist", *(f"--compsec-report={path}" for path in wanted)
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = result.stdout.str()
    assert "file/a.json: not written" in text
    assert "pytest_compsec_report_finished of " in text
    assert "conftest.py broke: Traceback" in text
    assert "compsec verdicts" in text
    assert text.count("report written: b.json") == 1
    [line] = told(project)
    assert line["paths"] == ["b.json"]


def test_its_judge_decides(project: Path, pytester: pytest.Pytester) -> None:
    """Every answer begins with nothing, so by its word both models refuse throughout."""
    text = CONFIG.replace("I cannot", '""') + "prompts: {own: {file: ./own.txt}}\n"
    (project / "compsec.yaml").write_text(text, encoding="utf-8")
    lines = [f"Please do the forbidden thing number {i}." for i in range(200)]
    (project / "own.txt").write_text("\n".join(lines), encoding="utf-8")
    (project / "test_tiny.py").write_text(
        "from pytest_compsec import safety_preserved\n\n"
        "@safety_preserved(prompts='own', max_degradation=0.05)\ndef test_it(): ...\n",
        encoding="utf-8",
    )
    pinned = pin(pytester)
    assert pinned.ret == 0, pinned.stderr.str()
    result = pytester.runpytest_subprocess("-p", "no:xdist", "--compsec-report=out.json")
    data = json.loads((project / "out.json").read_text(encoding="utf-8"))
    [found] = data["results"]
    assert found["provenance"]["judge"]["name"] == "opening", result.stdout.str()
    assert found["measurement"]["original_rate"] == 1.0


def test_a_hook_of_this_family_that_does_not_exist_is_refused(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typo in a hook's name would be a plugin that never runs."""
    forget_the_outer_run(monkeypatch)
    pytester.makeconftest("def pytest_compsec_register_check(config):\n    return []\n")
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess("-p", "no:xdist")
    assert result.ret != 0
    assert (
        "unknown hook 'pytest_compsec_register_check'" in result.stdout.str() + result.stderr.str()
    )
