"""A thousand marked tests are collected without a heavy import and without rereading prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inner_pytest import forget_the_outer_run

FILES, TESTS_IN_EACH = 20, 50
HEAVY = ("torch", "transformers", "numpy", "scipy", "secmlt", "sklearn")
CONFTEST = f"""
import sys
from pytest_compsec.models import prompt_sets

reads = []
read = prompt_sets.load_prompt_set

def counted(loaded, name):
    reads.append(name)
    return read(loaded, name)

prompt_sets.load_prompt_set = counted

def pytest_collection_finish(session):
    print()
    print("heavy:", *sorted(set({HEAVY!r}) & set(sys.modules)), "end")
    print("reads:", *reads, "end")
"""


@pytest.fixture
def many(
    pytester: pytest.Pytester, pinned_template: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """1,000 tests on one of the two pairs, in two prompt sets and several margins."""
    import shutil

    forget_the_outer_run(monkeypatch)
    shutil.copytree(pinned_template, pytester.path, dirs_exist_ok=True)
    tests = "\n".join(
        f"@safety_preserved(max_degradation=0.0{3 + number % 5}, variants='good')\n"
        f"def test_{number}(): pass\n"
        for number in range(TESTS_IN_EACH - 1)
    )
    text = (
        "from pytest_compsec import *\n\n"
        f"{tests}\n@over_refusal_preserved(variants='good', max_increase=0.05)\n"
        "def test_benign(): pass\n"
    )
    for number in range(FILES):
        (pytester.path / f"test_many_{number}.py").write_text(text, encoding="utf-8")
    (pytester.path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    return pytester


def test_a_thousand_marked_tests_load_nothing_heavy_and_read_each_prompt_set_once(
    many: pytest.Pytester,
) -> None:
    result = many.runpytest_subprocess("--collect-only", "-q", "-s")
    result.stdout.fnmatch_lines(["*1000 tests collected*"])
    result.stdout.fnmatch_lines(["heavy: end"])
    result.stdout.fnmatch_lines(["reads: *end"])
    reads = next(line for line in result.outlines if line.startswith("reads: ")).split()[1:-1]
    assert sorted(reads) == ["benign", "harmful"]


def test_too_few_prompts_are_still_told_for_every_test(many: pytest.Pytester) -> None:
    few = "\n".join(
        f"@safety_preserved(prompts='few', variants='good')\ndef test_few_{number}(): pass"
        for number in range(3)
    )
    (many.path / "test_few.py").write_text(f"from pytest_compsec import *\n{few}\n", "utf-8")
    result = many.runpytest_subprocess("--collect-only", "-q")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    for number in range(3):
        result.stderr.fnmatch_lines(
            [f"*test_few_{number}: safety_preserved: 100 prompts in 'few' are too few*149*"]
        )


def test_the_marker_is_listed_with_all_its_parameters(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.safety_preserved(*max_degradation=0.02*"])
