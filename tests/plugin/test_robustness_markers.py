"""``robustness_preserved`` and ``adversarial_transfer_blocked`` as users write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_compsec.verdict import CheckResult
from tests.plugin import classifier_suite as suite
from tests.plugin.classifier_suite import (
    CLEAN,
    FIXTURES,
    HALF,
    LANGUAGE,
    TEXT_DATA,
    TEXTS,
    Project,
    config,
    model,
)

FRAGILE = 'fragile: {source: "python:nets.shapes:build_small", weights: ./fragile.safetensors}'
BOTH = config(model(CLEAN, HALF, FRAGILE, backdoor=""))
QUICK = "steps=3, restarts=1, queries=10"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with suite.template(tmp_path_factory.mktemp("template")) as root:
        yield root


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, template: Path) -> Project:
    return suite.prepare(pytester, monkeypatch, template)


def test_a_kept_wall_and_a_lowered_one(project: Project) -> None:
    project.configure(BOTH)
    project.test_file(
        f"@robustness_preserved(eps=0.24, max_degradation=0.1, {QUICK})\ndef test_a(): pass\n"
        f"@adversarial_transfer_blocked(eps=0.24, max_degradation=0.1, {QUICK})\n"
        "def test_b(): pass\n"
    )
    result, found = project.report()
    assert {key: item["verdict"] for key, item in found.items()} == {
        ("clean-half", "robustness_preserved"): "PRESERVED",
        ("clean-half", "adversarial_transfer_blocked"): "PRESERVED",
        ("clean-fragile", "robustness_preserved"): "REGRESSED",
        ("clean-fragile", "adversarial_transfer_blocked"): "REGRESSED",
    }
    result.assert_outcomes(passed=2, failed=2)
    for item in found.values():
        kept = {name: value for name, value in item.items() if name != "frameworks"}
        assert CheckResult.from_json(item).to_json() == kept
    text = result.stdout.str()
    assert "Traceback" not in text
    table = text.partition("compsec verdicts")[2]
    assert "robustness_preserved" in table
    assert "clean-fragile" in table


def test_data_from_the_fixture(project: Project) -> None:
    project.configure(config(model(CLEAN, HALF, data="", backdoor="")))
    project.test_file(
        f"@robustness_preserved(eps=0.24, max_degradation=0.1, {QUICK})\ndef test_a(): pass\n"
    )
    text = project.usage_error()
    assert "robustness_preserved on 'clean' has no evaluation data" in text
    assert "override the fixture `evaluation_data`" in text
    assert "trigger" not in text
    project.conftest(FIXTURES)
    project.run().assert_outcomes(passed=1)


WRONG = {
    "bare": ("@robustness_preserved\n", "eps"),
    "bare transfer": ("@adversarial_transfer_blocked\n", "eps"),
    "negative": ("@robustness_preserved(eps=-1)\n", "eps"),
    "norm": ("@robustness_preserved(eps=0.1, norm='l3')\n", "l3"),
    "attack": ("@robustness_preserved(eps=0.1, attack='magic')\n", "magic"),
    "texts": ("@robustness_preserved(eps=0.1, models='texts')\n", "text-classification"),
    "a language model": ("@robustness_preserved(eps=0.1, models='assistant')\n", "'assistant'"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_usage_errors(project: Project, case: str) -> None:
    marker, words = WRONG[case]
    texts = model(TEXTS, HALF, data=TEXT_DATA, backdoor="")
    project.configure(config(model(CLEAN, HALF, backdoor=""), texts, LANGUAGE))
    project.test_file(marker + "def test_x(): pass\n")
    text = project.usage_error()
    assert words in text
    assert "test_shapes.py::test_x" in text


def test_no_image_classifier_at_all(project: Project) -> None:
    project.configure(config(model(TEXTS, HALF, data=TEXT_DATA, backdoor="")))
    project.test_file("@adversarial_transfer_blocked(eps=0.1)\ndef test_x(): pass\n")
    assert "works on image-classification models" in project.usage_error()
