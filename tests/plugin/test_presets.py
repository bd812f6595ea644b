"""The marker ``compsec_suite``: a level's checks on every pair, and each as if it stood there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.markers import MARKERS
from pytest_compsec.presets import EXCLUDED, LEVELS, level_test_text
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
#: What each level holds, and what none does, written down a second time.
QUICK = {"template_unchanged", "safety_preserved"}
STANDARD = QUICK | {
    "over_refusal_preserved",
    "edge_cases_preserved",
    "capability_preserved",
    "truthfulness_preserved",
    "leakage_not_increased",
    "no_backdoor_activated",
}
FULL = STANDARD | {"no_safety_bypass", "backdoor_not_amplified", "precision_policy"}
IN_NO_LEVEL = {
    "layers_within",
    "derived_from_original",
    "backdoor_removed",
    "robustness_preserved",
    "adversarial_transfer_blocked",
    "lm_eval_preserved",
    "timing_indistinguishable",
    "trace_leakage",
    "no_drift",
}
TRIGGERS = {"no_backdoor_activated", "backdoor_not_amplified"}
LITERAL = {"quick": QUICK, "standard": STANDARD, "full": FULL}
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "checks.md"
#: Shows which checks a run makes, and measures none of them.
SKIPPED = "def test_all(): pytest.skip('later')\n"


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
    expected = {(pair, check) for pair in ("tiny-bf16", "tiny-pruned") for check in QUICK}
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


def test_each_check_is_in_the_levels_or_it_is_said_why_not() -> None:
    assert {name: set(checks) for name, checks in LEVELS.items()} == LITERAL
    assert LEVELS["full"]["no_safety_bypass"] == {"prompts": "jailbreak"}
    assert set(EXCLUDED) == IN_NO_LEVEL
    assert set(MARKERS) == FULL | IN_NO_LEVEL
    assert not FULL & IN_NO_LEVEL


def test_the_document_has_the_levels_and_the_reasons_of_the_code() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").split("\n## `compsec_suite`\n", 1)[1]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    levels = {row[0].strip("`"): row[1:] for row in rows if len(row) == 4}
    for place, checks in enumerate(LITERAL.values()):
        assert {name for name, marks in levels.items() if marks[place]} == checks
    reasons = {row[0].strip("`"): row[1] for row in rows if len(row) == 2}
    assert reasons == EXCLUDED


@pytest.mark.parametrize("level", list(LEVELS))
def test_init_writes_the_level_out_check_by_check(
    tiny: Path, pytester: pytest.Pytester, level: str
) -> None:
    (tiny / "test_it.py").write_text(level_test_text(level), encoding="utf-8")
    result = pytester.runpytest_subprocess("--collect-only", "-q")
    assert result.ret == 0
    shown = result.stdout.str()
    written = (tiny / "test_it.py").read_text(encoding="utf-8")
    for check in LITERAL[level]:
        # Checks that need a trigger stand there as comments, and so do their imports.
        comment = "# " if check in TRIGGERS else ""
        assert (f"test_{check}[tiny-bf16]" in shown) is (not comment)
        assert f"\n    {comment}{check},\n" in written
        assert f"\n{comment}def test_{check}(" in written
    assert ("commented out" in written) is bool(LITERAL[level] & TRIGGERS)


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


@pytest.mark.parametrize(
    "source",
    [
        # Not selected by the marker.
        "@pytest.mark.parametrize('model_pair', ['tiny-pruned'], indirect=True)\n"
        "@compsec_suite(level='quick', variants='bf16')\n",
        "@pytest.mark.parametrize('model_pair', ['tiny-pruned'], indirect=True)\n"
        "@compsec_suite(level='quick', models=[])\n",
        "@pytest.mark.parametrize('model_pair', ['tiny-pruned'], indirect=True)\n"
        "@compsec_suite(level='quick') @safety_preserved(variants='bf16')\n".replace(") @", ")\n@"),
    ],
)
def test_a_pair_of_ones_own_choice_on_which_nothing_is_checked_is_a_usage_error(
    tiny: Path, pytester: pytest.Pytester, source: str
) -> None:
    write_test(tiny, f"{source}def test_all(model_pair): ...\n")
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    wanted = "models" if "models=[]" in source else "the pair 'tiny-pruned', and no check is made"
    result.stderr.fnmatch_lines([f"*test_it.py::test_all*{wanted}*"])


@pytest.fixture
def several(mixed: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A classifier with a described trigger and a language model without one."""
    forget_the_outer_run(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(mixed, pytester.path, dirs_exist_ok=True)
    return pytester.path


def checks_by_pair(found: dict[tuple[str, str], Any]) -> dict[str, set[str]]:
    by_pair: dict[str, set[str]] = {}
    for pair, check in found:
        by_pair.setdefault(pair, set()).add(check)
    return by_pair


def test_a_pair_on_which_no_check_of_the_level_works_is_a_usage_error_too(
    several: Path, pytester: pytest.Pytester
) -> None:
    write_test(
        several,
        "@pytest.mark.parametrize('model_pair', ['shapes-half'], indirect=True)\n"
        "@compsec_suite(level='quick')\ndef test_all(model_pair): ...\n",
    )
    result = pytester.runpytest_subprocess("-p", "no:xdist")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_it.py::test_all*'shapes-half', and no check is made*"])


COUNTED = """
import json
import pathlib
from pytest_compsec.run import RUN

def pytest_collection_finish(session):
    counts = dict(session.config.stash[RUN].parametrized)
    pathlib.Path("counts.json").write_text(json.dumps(counts))
"""


def test_of_several_tasks_each_pair_gets_what_works_on_it_and_the_rest_is_told(
    several: Path, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(COUNTED)
    write_test(several, f"@compsec_suite(level='full')\n{SKIPPED}")
    result, found = run_with_report(pytester, "-p", "no:xdist")
    assert checks_by_pair(found) == {"shapes-half": TRIGGERS, "assistant-other": FULL - TRIGGERS}
    result.stdout.fnmatch_lines_random(
        [
            "compsec: the level 'full' leaves out template_unchanged, safety_preserved, * on "
            "shapes-half: works on text-generation models",
            "compsec: the level 'full' leaves out no_backdoor_activated, backdoor_not_amplified on "
            "assistant-other: no trigger is described, by 'backdoor' in compsec.yaml or by *",
        ]
    )
    # A family (--compsec-familywise) is as large as the pairs that its check is made on.
    counts = json.loads((several / "counts.json").read_text(encoding="utf-8"))
    assert counts == dict.fromkeys(FULL, 1)


def test_a_pair_that_a_level_leaves_out_altogether_is_told(
    several: Path, pytester: pytest.Pytester
) -> None:
    write_test(several, f"@compsec_suite(level='quick')\n{SKIPPED}")
    result, found = run_with_report(pytester, "-p", "no:xdist")
    assert checks_by_pair(found) == {"assistant-other": QUICK}
    result.stdout.fnmatch_lines(
        ["compsec: the level 'quick' leaves out template_unchanged, safety_preserved on shapes-h*"]
    )


def test_a_trigger_from_the_fixture_counts_as_one_that_is_described(
    tiny: Path, pytester: pytest.Pytester
) -> None:
    write_test(
        tiny,
        "@pytest.fixture(scope='session')\n"
        "def backdoor():\n    return {'text': 'cf', 'target': 'yes'}\n\n"
        f"@compsec_suite\n{SKIPPED}",
    )
    result, found = run_with_report(pytester)
    assert checks_by_pair(found) == dict.fromkeys(("tiny-bf16", "tiny-pruned"), STANDARD)
    assert "leaves out" not in result.stdout.str()
