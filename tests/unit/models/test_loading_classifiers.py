"""Classifiers of ``python:`` sources through config, lock and verified files: what every
compression makes of them, and what is refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_compsec.checks.backdoor_removed import check_backdoor_removed
from pytest_compsec.classification.model import ClassifierModel
from pytest_compsec.errors import CompsecError, ConfigError, LoadError, NotCompressedError
from pytest_compsec.models.pair import ModelPair
from pytest_compsec.models.pinning import pin
from pytest_compsec.suite import Suite, open_suite
from pytest_compsec.verdict import Verdict
from tests.plugin.classifier_suite import (
    CLEANED,
    HALF,
    SHAPES,
    TEXT_DATA,
    TEXTS,
    config,
    model,
    quick_garbage_collection,
    shape_weights,
    write_files,
)

VARIANTS = {
    "int8": "quantize: {method: bitsandbytes, bits: 8}",
    "nf4": "quantize: {method: bitsandbytes, bits: 4, type: nf4}",
    "rtn4": "quantize: {method: round-to-nearest, bits: 4}",
    "pruned": "prune: {method: magnitude, sparsity: 0.3}",
    "kept": (
        "quantize: {method: bitsandbytes, bits: 4, type: nf4, keep_in_full_precision: [head]}"
    ),
    "tuned": (
        "prune: {method: fine-pruning, data: ./training.safetensors, share: 0.3, epochs: 2, "
        "learning_rate: 0.01}"
    ),
}
WHOLE = config(
    model(
        SHAPES, HALF, CLEANED, *(f"{name}: {{{section}}}" for name, section in VARIANTS.items())
    ),
    model(TEXTS, HALF, "int8: {quantize: {method: bitsandbytes, bits: 8}}", data=TEXT_DATA,
          backdoor="{phrase: cf, target: 1}"),
)  # fmt: skip
ALL = ("half", *VARIANTS)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("template")
    pin(write_files(root, WHOLE))
    with quick_garbage_collection():
        yield root


@pytest.fixture(scope="module")
def suite(template: Path) -> Iterator[Suite]:
    with open_suite(template / "compsec.yaml") as opened:
        yield opened


def classifiers(pair: ModelPair) -> tuple[ClassifierModel, ClassifierModel]:
    return pair.classifiers


@pytest.mark.parametrize("variant", ALL)
def test_every_method_leaves_a_classifier_that_works(suite: Suite, variant: str) -> None:
    pair = suite.pair(f"shapes-{variant}")
    original, compressed = classifiers(pair)
    data = pair.evaluation_data
    assert original.classes == compressed.classes == 4
    assert torch.equal(original.predict(data.inputs), data.labels)
    assert (compressed.predict(data.inputs) == data.labels).float().mean() > 0.95
    difference = original.logits(data.inputs) - compressed.logits(data.inputs)
    assert float(difference.abs().max()) > 0, "nothing was compressed"
    pair.recheck()


@pytest.mark.parametrize("variant", ["int8", "half"])
def test_texts_too(suite: Suite, variant: str) -> None:
    pair = suite.pair(f"texts-{variant}")
    original, compressed = classifiers(pair)
    data = pair.evaluation_data
    assert torch.equal(original.predict(data.inputs), data.labels)
    assert torch.equal(compressed.predict(data.inputs), data.labels)
    result = check_backdoor_removed(pair)
    assert result.verdict is Verdict.REGRESSED, result.summary


@pytest.mark.parametrize(
    ("variant", "verdict"),
    [("int8", "REGRESSED"), ("nf4", "REGRESSED"), ("pruned", "REGRESSED"),
     ("tuned", "PRESERVED"), ("cleaned", "PRESERVED")],
)  # fmt: skip
def test_which_compressions_remove_the_backdoor(suite: Suite, variant: str, verdict: str) -> None:
    """A dormant channel is what fine-pruning takes (Liu et al. 2018), and rounding leaves."""
    result = check_backdoor_removed(suite.pair(f"shapes-{variant}"))
    assert result.verdict == verdict, result.summary


def test_layers_by_name_are_kept_in_full_precision(suite: Suite) -> None:
    modules: list[Any] = [suite.pair(f"shapes-{name}").compressed.module for name in ("kept",)]
    (kept,) = modules
    assert type(kept.head) is torch.nn.Linear
    assert kept.head.weight.dtype == torch.float32
    assert type(kept.first) is not torch.nn.Linear
    whole: Any = suite.pair("shapes-nf4").compressed.module
    assert type(whole.head) is not torch.nn.Linear


def test_the_smaller_network_is_the_one_of_its_own_factory(suite: Suite) -> None:
    original, compressed = classifiers(suite.pair("shapes-cleaned"))
    shapes: list[Any] = [original.module, compressed.module]
    assert [module.first.out_features for module in shapes] == [16, 8]


def changed(template: Path, root: Path, text: str) -> Path:
    shutil.copytree(template, root, dirs_exist_ok=True)
    (root / "compsec.lock").unlink(missing_ok=True)
    path = root / "compsec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_copy_is_not_compressed(template: Path, tmp_path: Path) -> None:
    copy = 'copy: {source: "python:nets.shapes:build", weights: ./copy.safetensors}'
    path = changed(template, tmp_path, config(model(SHAPES, copy)))
    shutil.copy(tmp_path / "shapes.safetensors", tmp_path / "copy.safetensors")
    pin(path)
    with open_suite(path) as opened, pytest.raises(NotCompressedError):
        check_backdoor_removed(opened.pair("shapes-copy"))


def test_layers_of_another_name_are_refused(template: Path, tmp_path: Path) -> None:
    section = VARIANTS["kept"].replace("[head]", "[tail]")
    path = changed(template, tmp_path, config(model(SHAPES, f"kept: {{{section}}}")))
    pin(path)
    with open_suite(path) as opened, pytest.raises(CompsecError, match="tail"):
        check_backdoor_removed(opened.pair("shapes-kept"))


WRONG_WEIGHTS = {
    "another shape": (shape_weights(9, detector=False), r"first\.weight \(\(9, 64\) instead of"),
    "one missing": (
        {k: v for k, v in shape_weights(16, detector=True).items() if k != "head.bias"},
        "missing: head.bias",
    ),
    "one too many": (
        {**shape_weights(16, detector=True), "more": torch.zeros(2)},
        "not of this module: more",
    ),
    "not finite": (
        {**shape_weights(16, detector=True), "head.bias": torch.full((4,), float("nan"))},
        "not finite",
    ),
}


@pytest.mark.parametrize("case", list(WRONG_WEIGHTS))
def test_weights_that_do_not_fit_are_refused(template: Path, tmp_path: Path, case: str) -> None:
    weights, words = WRONG_WEIGHTS[case]
    path = changed(template, tmp_path, config(model(SHAPES, HALF)))
    save_file(weights, tmp_path / "shapes.safetensors")
    pin(path)
    with open_suite(path) as opened, pytest.raises(LoadError, match=words):
        check_backdoor_removed(opened.pair("shapes-half"))


def verdict_or_error(suite: Suite, pair: str) -> str:
    """What is said of a pair that nothing can be measured of."""
    try:
        result = check_backdoor_removed(suite.pair(pair))
    except CompsecError as error:
        return str(error)
    assert result.verdict is Verdict.NOT_MEASURED
    return result.summary


WRONG_CODE = {
    "no module": ("return Net(16)", "return 5", "int"),
    "it fails": ("return Net(16)", "return 1 // 0", r"nets/shapes\.py:\d+|ZeroDivisionError"),
    "no logits": (
        "return self.head(self.first(images.flatten(1)).relu())",
        "return 'class 3'",
        "returns str",
    ),
}


@pytest.mark.parametrize("case", list(WRONG_CODE))
def test_code_that_makes_no_classifier_is_told(template: Path, tmp_path: Path, case: str) -> None:
    old, new, words = WRONG_CODE[case]
    path = changed(template, tmp_path, config(model(SHAPES, HALF)))
    code = tmp_path / "nets/shapes.py"
    text = code.read_text(encoding="utf-8")
    assert old in text
    code.write_text(text.replace(old, new), encoding="utf-8")
    pin(path)
    with open_suite(path) as opened:
        said = verdict_or_error(opened, "shapes-half")
    assert re.search(words, said), said


def test_fewer_classes_in_the_variant_are_not_measured(template: Path, tmp_path: Path) -> None:
    path = changed(template, tmp_path, config(model(SHAPES, CLEANED)))
    code = tmp_path / "nets/shapes.py"
    text = code.read_text(encoding="utf-8").replace("hidden, 4)", "hidden, 4 if hidden > 8 else 3)")
    code.write_text(text, encoding="utf-8")
    weights = load_file(tmp_path / "cleaned.safetensors")
    weights |= {name: weights[name][:3].contiguous() for name in ("head.weight", "head.bias")}
    save_file(weights, tmp_path / "cleaned.safetensors")
    pin(path)
    with open_suite(path) as opened:
        said = verdict_or_error(opened, "shapes-cleaned")
    assert "classes" in said


def test_fine_pruning_on_the_samples_of_the_verdict_says_nothing(
    template: Path, tmp_path: Path
) -> None:
    section = VARIANTS["tuned"].replace("training", "samples")
    path = changed(template, tmp_path, config(model(SHAPES, f"tuned: {{{section}}}")))
    pin(path)
    words = "was fitted to './samples.safetensors', and 400 of 400 samples"
    with open_suite(path) as opened, pytest.raises(ConfigError, match=words):
        check_backdoor_removed(opened.pair("shapes-tuned"))


def test_nor_do_a_fixtures_samples_that_it_was_fitted_to(suite: Suite, template: Path) -> None:
    tensors = load_file(template / "training.safetensors")
    given = suite.pair("shapes-tuned").with_given(
        evaluation_data=(tensors["inputs"][:8], tensors["labels"][:8])
    )
    with pytest.raises(ConfigError, match="8 of 8 samples of the fixture evaluation_data"):
        check_backdoor_removed(given)
