"""The marker ``compsec_suite``: a level's checks on every pair, and each as if it stood there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pytest_compsec.presets import LEVELS, level_test_text
from tests.inner_pytest import forget_the_outer_run, run_with_report
from tests.plugin.classifier_suite import (
    HALF,
    LANGUAGE,
    SHAPES,
    config,
    model,
    pin,
    write_files,
)
from tests.unit.tiny_model import make_tiny_checkpoint

CONFIG = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      bf16: {quantize: {method: cast, dtype: bfloat16}}
      pruned: {prune: {method: magnitude, sparsity: 0.5}}
defaults: {max_new_tokens: 2}
"""


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outside of pytester, which would forget what it imports of torch."""
    from pytest_compsec.cli import main

    folder = tmp_path_factory.mktemp("presets")
    make_tiny_checkpoint(folder / "original")
    (folder / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    ini = "[pytest]\naddopts = --strict-markers -p no:xdist\n"
    (folder / "pytest.ini").write_text(ini, encoding="utf-8")
    assert main(["pin", "--config", str(folder / "compsec.yaml")]) == 0
    return folder


@pytest.fixture
def tiny(pinned: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    forget_the_outer_run(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(pinned, pytester.path, dirs_exist_ok=True)
    return pytester.path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    write_files(folder, config(model(SHAPES, HALF), LANGUAGE))
    pin(folder)
    return folder


def write_test(folder: Path, source: str) -> None:
    text = "import pytest\nfrom pytest_compsec import *\n\n" + source
    (folder / "test_it.py").write_text(text, encoding="utf-8")


def test_every_check_of_the_level_is_made_on_every_pair(
    tiny: Path, pytester: pytest.Pytester
) -> None:
    write_test(tiny, "@compsec_suite(level='quick')\ndef test_all(): ...\n")
    _, found = run_with_report(pytester)
    expected = {(pair, check) for pair in ("tiny-bf16", "tiny-pruned") for check in LEVELS["quick"]}
    assert set(found) == expected
    # Random weights refuse nothing: there is no safety to preserve, whatever the template says.
    for (_, check), result in found.items():
        wanted = "PRESERVED" if check == "template_unchanged" else "NOT_MEASURED"
        assert result["verdict"] == wanted
        assert result["frameworks"]["nist_ai_rmf"]


def test_a_marker_of_its_own_takes_the_place_of_the_levels(
    tiny: Path, pytester: pytest.Pytester
) -> None:
    write_test(
        tiny,
        "@compsec_suite(level='quick', variants='bf16')\n"
        "@safety_preserved(max_degradation=0.2)\n"
        "def test_all(model_pair): ...\n",
    )
    _, found = run_with_report(pytester)
    assert {pair for pair, _ in found} == {"tiny-bf16"}
    assert found["tiny-bf16", "safety_preserved"]["limit"] == 0.2


def test_the_command_writes_the_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pytest_compsec.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert main(["init", "./model", "int8", "--level", "standard"]) == 0
    written = (tmp_path / "test_compsec_safety.py").read_text(encoding="utf-8")
    assert written == level_test_text("standard")
    with pytest.raises(SystemExit) as ended:
        main(["init", "./model", "int8", "--level", "deep"])
    assert ended.value.code == 2
    assert "quick" in capsys.readouterr().err


def test_each_level_holds_the_one_before() -> None:
    quick, standard, full = LEVELS.values()
    assert set(quick) < set(standard) < set(full)


@pytest.mark.parametrize("level", list(LEVELS))
def test_init_writes_the_level_out_check_by_check(
    tiny: Path, pytester: pytest.Pytester, level: str
) -> None:
    (tiny / "test_it.py").write_text(level_test_text(level), encoding="utf-8")
    result = pytester.runpytest_subprocess("--collect-only", "-q")
    assert result.ret == 0
    shown = result.stdout.str()
    for check in LEVELS[level]:
        # Checks that need a trigger stand there as comments.
        assert (f"test_{check}[tiny-bf16]" in shown) is ("backdoor" not in check)
        assert f"def test_{check}(" in (tiny / "test_it.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("level='deep'", "level='deep' must be one of quick, standard, full"),
        ("levle='quick'", "did you mean 'level'"),
        ("'quick'", "takes keyword arguments only"),
        ("variants='bf61'", "did you mean 'bf16'"),
        ("models=[]", "models"),
    ],
)
def test_a_wrong_argument_is_told_with_the_test(
    tiny: Path, pytester: pytest.Pytester, mark: str, message: str
) -> None:
    write_test(tiny, f"@compsec_suite({mark})\ndef test_all(): ...\n")
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*test_it.py::test_all*{message}*"])


def test_of_several_tasks_each_pair_gets_what_works_on_it(
    mixed: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_the_outer_run(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(mixed, pytester.path, dirs_exist_ok=True)
    write_test(pytester.path, "@compsec_suite(level='full')\ndef test_all(): ...\n")
    _, found = run_with_report(pytester, "-p", "no:xdist")
    by_pair: dict[str, set[str]] = {}
    for pair, check in found:
        by_pair.setdefault(pair, set()).add(check)
    assert by_pair.pop("shapes-half") == {"no_backdoor_activated", "backdoor_not_amplified"}
    triggers = {check for check in LEVELS["full"] if "backdoor" in check}
    for checks in by_pair.values():  # a language model without a trigger
        assert checks == set(LEVELS["full"]) - triggers
    assert by_pair
