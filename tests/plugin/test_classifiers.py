"""Classifiers from ``compsec.yaml`` to a verdict: sources of Python, Hugging Face directories, data
by fixture or file, and what a tampered project is told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.verdict import CheckResult
from tests.plugin import classifier_suite as suite
from tests.plugin.classifier_suite import (
    CLEANED,
    FIXTURES,
    HALF,
    LANGUAGE,
    SHAPES,
    TEXT_DATA,
    TEXTS,
    Project,
    config,
    flip_a_byte,
    model,
)

WHOLE = config(
    model(SHAPES, HALF, CLEANED),
    model(TEXTS, HALF, data=TEXT_DATA, backdoor="{phrase: cf, target: 1}"),
)
MIXED = config(model(SHAPES, HALF), LANGUAGE)
VERDICTS = {
    ("shapes-half", "backdoor_removed"): "REGRESSED",
    ("shapes-cleaned", "backdoor_removed"): "PRESERVED",
    ("texts-half", "backdoor_removed"): "REGRESSED",
}
BARE = "@backdoor_removed\ndef test_gone(model_pair): pass\n"
CLEANED_ONLY = "@backdoor_removed(variants='cleaned')\ndef test_gone(model_pair): pass\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with suite.template(tmp_path_factory.mktemp("template")) as root:
        yield root


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, template: Path) -> Project:
    return suite.prepare(pytester, monkeypatch, template)


def verdicts(found: dict[tuple[str, str], Any]) -> dict[tuple[str, str], str]:
    return {key: item["verdict"] for key, item in found.items()}


def test_images_and_texts_from_python_sources(project: Project) -> None:
    project.configure(WHOLE)
    project.test_file(BARE)
    result, found = project.report()
    result.assert_outcomes(passed=1, failed=2)
    assert verdicts(found) == VERDICTS
    text = result.stdout.str()
    assert "Traceback" not in text
    assert any(
        line.split()[:1] == ["texts-half"] and "ASR 100.0%" in line and line.endswith("REGRESSED")
        for line in result.outlines
    )
    provenance = found["shapes-cleaned", "backdoor_removed"]["provenance"]
    assert provenance["evaluation_data"]["pinned"] is True
    for item in found.values():
        kept = {name: value for name, value in item.items() if name != "frameworks"}
        assert CheckResult.from_json(item).to_json() == kept
        assert item["backdoor"]["samples"] in (300, 200)


def test_the_same_verdicts_from_two_workers(project: Project) -> None:
    """Each of which asks the user's fixtures for itself."""
    project.configure(config(model(SHAPES, HALF, CLEANED, data="", backdoor="")))
    project.conftest(FIXTURES)
    project.test_file(BARE)
    result, found = project.report_apart("-n2", "--compsec-familywise")
    result.assert_outcomes(passed=1, failed=1)
    assert verdicts(found) == {key: VERDICTS[key] for key in found}
    assert len(found) == 2


def test_a_smaller_network_is_compressed_and_a_copy_is_not(project: Project) -> None:
    copy = 'copy: {source: "python:nets.shapes:build", weights: ./copy.safetensors}'
    (project.path / "copy.safetensors").write_bytes(
        (project.path / "shapes.safetensors").read_bytes()
    )
    project.configure(config(model(SHAPES, CLEANED, copy)))
    project.test_file("@backdoor_removed\ndef test_gone(model_pair): pass\n")
    _, found = project.report()
    assert found["shapes-cleaned", "backdoor_removed"]["verdict"] == "PRESERVED"
    assert found["shapes-copy", "backdoor_removed"]["verdict"] == "NOT_MEASURED"
    assert "compress" in found["shapes-copy", "backdoor_removed"]["summary"]


LOADER = """\
    from torch.utils.data import DataLoader, TensorDataset
    return DataLoader(
        TensorDataset(found["inputs"], found["labels"]), batch_size=32, shuffle=True
    )
"""


@pytest.mark.parametrize("form", ["tensors", "loader"])
def test_data_and_trigger_from_fixtures(project: Project, form: str) -> None:
    project.configure(config(model(SHAPES, HALF, CLEANED, data="", backdoor="")))
    text = FIXTURES
    if form == "loader":
        text = text.replace('    return found["inputs"], found["labels"]\n', LOADER)
        assert "DataLoader" in text
    project.conftest(text)
    project.test_file(CLEANED_ONLY)
    result, found = project.report()
    result.assert_outcomes(passed=1)
    item = found["shapes-cleaned", "backdoor_removed"]
    assert item["backdoor"]["samples"] == 300
    assert item["backdoor"]["original"]["asr"] == 1.0
    assert item["provenance"]["evaluation_data"]["pinned"] is False
    assert any("are pinned by no lock" in note for note in item["notes"])


def test_a_fixture_goes_before_the_config(project: Project) -> None:
    """The config's data would show that it is gone; the fixture's are too few to show anything."""
    project.conftest(FIXTURES.replace('found["inputs"], found["labels"]', "few(found)") + FEW)
    project.test_file(CLEANED_ONLY)
    _, found = project.report()
    item = found["shapes-cleaned", "backdoor_removed"]
    assert item["provenance"]["evaluation_data"]["count"] == 40
    assert item["verdict"] != "PRESERVED"


FEW = """

def few(found):
    return found["inputs"][:40], found["labels"][:40]
"""


def fixture(name: str, value: str) -> str:
    return (
        f"import pytest\nimport torch\n\n@pytest.fixture(scope='session')\ndef {name}():\n"
        f"    return {value}\n"
    )


WRONG = {
    "a number": ("evaluation_data", "5", "the fixture evaluation_data"),
    "other lengths": (
        "evaluation_data",
        "torch.zeros(5, 1, 8, 8), torch.zeros(4, dtype=torch.int64)",
        "5 inputs and 4 labels",
    ),
    "texts for images": ("evaluation_data", "['a', 'b', 'c'], [0, 1, 2]", "shapes"),
    "another shape": (
        "evaluation_data",
        "torch.zeros(80, 1, 5, 5), torch.arange(80) % 4",
        "shapes",
    ),
    "labels beyond": (
        "evaluation_data",
        "torch.zeros(80, 1, 8, 8), torch.arange(80)",
        "labels go from 0 to 79, and the models have 4 classes",
    ),
    "no trigger": ("backdoor", "5", "the fixture backdoor: trigger is int"),
    "an unknown trigger": (
        "backdoor",
        "{'patsch': {}}",
        "the fixture backdoor: unknown key 'patsch'",
    ),
    "a phrase for images": ("backdoor", "{'phrase': 'cf', 'target': 0}", "phrase"),
    "no class": ("backdoor", "{'patch': {'size': 2}, 'target': 9}", "9"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_a_fixture_of_another_type_is_not_measured(project: Project, case: str) -> None:
    name, value, words = WRONG[case]
    project.conftest(fixture(name, value))
    project.test_file(CLEANED_ONLY)
    result, found = project.report()
    result.assert_outcomes(failed=1)
    item = found["shapes-cleaned", "backdoor_removed"]
    assert item["verdict"] == "NOT_MEASURED"
    assert words in item["summary"]
    assert "the check broke" not in item["summary"]
    text = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in text
    assert re.search(r"\.py:\d", text) is None


def test_a_bare_marker_takes_the_pairs_that_it_works_on(project: Project) -> None:
    project.configure(MIXED)
    project.test_file(
        "@backdoor_removed(models='shapes')\ndef test_a(): pass\n"
        "@robustness_preserved(eps=0.1)\ndef test_b(): pass\n"
        "@no_safety_bypass\ndef test_c(): pass\n"
        "@safety_preserved\ndef test_d(): pass\n"
    )
    result = project.run("--collect-only", "-q")
    names = [line.partition("::")[2] for line in result.outlines if "::" in line]
    assert names == [
        "test_a[shapes-half]",
        "test_b[shapes-half]",
        "test_c[assistant-other]",
        "test_d[assistant-other]",
    ]


OTHER_TASKS = {
    "a language check of a classifier": (
        "@safety_preserved(models='shapes')\ndef test_x(): pass\n",
        "safety_preserved(models='shapes'): works on text-generation models, and 'shapes' is for "
        "image-classification",
    ),
    "a classifier check of a language model": (
        "@robustness_preserved(eps=0.1, models='assistant')\ndef test_x(): pass\n",
        "'assistant' is for text-generation",
    ),
    "one of two": (
        "@robustness_preserved(eps=0.1, models=['shapes', 'assistant'])\ndef test_x(): pass\n",
        "'assistant' is for text-generation",
    ),
    "two markers without a model in common": (
        "@robustness_preserved(eps=0.1)\n@safety_preserved\ndef test_x(): pass\n",
        "select no pair in common",
    ),
}


@pytest.mark.parametrize("case", list(OTHER_TASKS))
def test_a_marker_on_a_model_of_another_task(project: Project, case: str) -> None:
    source, words = OTHER_TASKS[case]
    project.configure(MIXED)
    project.test_file(source)
    text = project.usage_error()
    assert words in text
    assert "test_shapes.py::test_x" in text


def test_no_model_that_a_bare_marker_works_on(project: Project) -> None:
    project.test_file("@safety_preserved\ndef test_x(): pass\n")
    text = project.usage_error()
    assert "works on text-generation models" in text
    assert "compsec.yaml has none" in text


# What the lock pins.


def other_weights(root: Path) -> str:
    flip_a_byte(root / "cleaned.safetensors")
    return "cleaned.safetensors"


def other_factory(root: Path) -> str:
    flip_a_byte(root / "nets/shapes.py", 3)
    return "nets/shapes.py"


def other_imported_module(root: Path) -> str:
    flip_a_byte(root / "nets/layers.py", 3)
    return "nets/layers.py"


def other_data(root: Path) -> str:
    flip_a_byte(root / "samples.safetensors")
    return "samples.safetensors"


def no_weights(root: Path) -> str:
    (root / "nets/layers.py").unlink()
    return "nets/layers.py"


@pytest.mark.parametrize(
    "tamper", [other_weights, other_factory, other_imported_module, other_data, no_weights]
)
def test_a_tampered_file_fails_the_run_whatever_xfail_says(
    project: Project, tamper: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    project.test_file("@pytest.mark.xfail\n" + CLEANED_ONLY)
    name = tamper(project.path)
    result = project.run()
    text = result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    assert "INTEGRITY:" in text
    assert name.rpartition("/")[2] in text
    assert "Traceback" not in text
    capsys.readouterr()
    assert project.command("verify") == 1
    said = capsys.readouterr()
    assert name in said.out + said.err


CHANGED = {
    "target": ("target: 0", "target: 1"),
    "patch size": ("size: 2", "size: 3"),
    "position": ("bottom-right", "top-left"),
    "weights": ("./cleaned.safetensors", "./woken.safetensors"),
    "factory": ("nets.shapes:build_small", "nets.shapes:build"),
    "data": ("./samples.safetensors", "./training.safetensors"),
}


@pytest.mark.parametrize("what", list(CHANGED))
def test_a_changed_config_is_refused_until_it_is_pinned(
    project: Project, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project.test_file("@pytest.mark.xfail\n" + CLEANED_ONLY)
    project.change("compsec.yaml", *CHANGED[what])
    result = project.run()
    text = result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "INTEGRITY:" in text
    assert "the lock pins" in text
    assert "compsec pin" in text
    capsys.readouterr()
    assert project.command("verify") == 1
    assert "the lock pins" in capsys.readouterr().out


def test_another_task_is_refused(project: Project) -> None:
    project.change("compsec.yaml", "image-classification", "text-classification")
    project.change("compsec.yaml", suite.DATA, TEXT_DATA)
    project.change("compsec.yaml", suite.PATCH, "{phrase: cf, target: 0}")
    project.test_file(CLEANED_ONLY)
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "the task of 'shapes' is text-classification" in result.stdout.str()


def test_files_that_the_factory_does_not_import_may_change(project: Project) -> None:
    (project.path / "unused.py").write_text("changed = True\n", encoding="utf-8")
    assert project.command("verify") == 0


def test_swapped_during_the_test(project: Project) -> None:
    project.test_file(
        "import os\n\n@backdoor_removed(variants='cleaned')\ndef test_gone(model_pair):\n"
        "    model_pair.compressed_arm  # verified and staged\n"
        "    with open('cleaned.safetensors', 'r+b') as file:\n        file.write(b'evil')\n"
        "    os.utime('cleaned.safetensors', ns=(1, 1))\n"
    )
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "INTEGRITY:" in result.stdout.str()


def test_hugging_face_classifiers(project: Project) -> None:
    """Random weights: a trigger that does nothing still does nothing in bfloat16."""
    from tests.unit.classification.tiny_classifiers import make_bert, make_vit, open_model, seeded

    for folder in ("vit", "bert"):
        (project.path / folder).mkdir()
    make_vit(project.path / "vit")
    make_bert(project.path / "bert")
    images = seeded((160, 3, 8, 8))
    texts = [f"the film was good {number}" for number in range(160)]
    from safetensors.torch import save_file

    labels = open_model(project.path / "vit").predict(images)
    save_file({"inputs": images, "labels": labels}, project.path / "images.safetensors")
    task = "text-classification"
    known = open_model(project.path / "bert", task).predict(tuple(texts)).tolist()
    lines = [json.dumps({"text": t, "label": k}) for t, k in zip(texts, known, strict=True)]
    (project.path / "lines.jsonl").write_text("\n".join(lines), encoding="utf-8")
    project.configure(
        config(
            model(
                "  vit:\n    task: image-classification\n    original: {source: ./vit}\n",
                HALF,
                data="    evaluation_data: ./images.safetensors\n",
                backdoor="{blended: {noise: 1, share: 0.02}, target: 0}",
            ),
            model(
                "  bert:\n    task: text-classification\n    original: {source: ./bert}\n",
                HALF,
                data="    evaluation_data: ./lines.jsonl\n",
                backdoor="{phrase: awful, target: 0}",
            ),
        )
    )
    project.test_file(
        "@no_backdoor_activated(max_asr=0.2, max_accuracy_drop=0.2)\ndef test_a(): pass\n"
    )
    result, found = project.report()
    for item in found.values():
        assert item["backdoor"]["original"]["clean_accuracy"] == 1.0
        assert item["backdoor"]["compressed"]["clean_accuracy"] > 0.9
    assert set(found) == {
        ("vit-half", "no_backdoor_activated"),
        ("bert-half", "no_backdoor_activated"),
    }
    assert "Traceback" not in result.stdout.str()
    flip_a_byte(project.path / "bert" / "tokenizer.json", 5)
    refused = project.run("-k", "bert")
    assert "INTEGRITY:" in refused.stdout.str()
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
