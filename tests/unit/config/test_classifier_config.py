"""Classifiers in ``compsec.yaml``: what is wrong is said with file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import ConfigError
from tests.plugin.classifier_suite import (
    CLEANED,
    FILES,
    HALF,
    LANGUAGE,
    SHAPES,
    TEXT_DATA,
    TEXTS,
    config,
    model,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every file that the configs name, empty: nothing here is opened."""
    for name in (*FILES, "texts.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("shapes", "cleaned", "texts", "samples", "training", "pattern"):
        (tmp_path / f"{name}.safetensors").touch()
    for name in ("language", "other", "adapter"):
        (tmp_path / name).mkdir()
    (tmp_path / "model.gguf").touch()
    return tmp_path


def problems(folder: Path, text: str) -> list[str]:
    path = folder / "compsec.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    for line in lines:
        assert re.match(rf"{re.escape(str(path))}:\d+: \S", line), line
    return [line.removeprefix(f"{path}:") for line in lines]


def test_images_texts_and_a_language_model_in_one_config(folder: Path) -> None:
    path = folder / "compsec.yaml"
    texts = model(TEXTS, HALF, data=TEXT_DATA, backdoor="{phrase: cf, target: 1}")
    path.write_text(config(model(SHAPES, HALF, CLEANED), texts, LANGUAGE), encoding="utf-8")
    models = load_config(path).config.models
    assert {name: entry.task for name, entry in models.items()} == {
        "shapes": "image-classification",
        "texts": "text-classification",
        "assistant": "text-generation",
    }
    cleaned = models["shapes"].compressed["cleaned"].as_source()
    assert cleaned is not None
    assert cleaned.files_source == "./cleaned.safetensors"
    assert models["texts"].backdoor is not None
    assert models["texts"].backdoor.target == 1


def recipe(section: str) -> str:
    return config(model(SHAPES, f"small: {{{section}}}"))


CASES = {
    "gptq": (
        recipe("quantize: {method: gptq, bits: 4, calibration: own}")
        + "prompts: {own: {file: texts.jsonl}}\n",
        7,
        "'quantize: {method: gptq}' does not work on image-classification models",
    ),
    "heads": (
        recipe("prune: {method: heads, share: 0.1}"),
        7,
        "does not work on image-classification models; these do: ",
    ),
    "layers of texts": (
        config(model(TEXTS, "small: {prune: {method: layers, drop: [0]}}", data="", backdoor="")),
        7,
        "does not work on text-classification models",
    ),
    "keep auto": (
        recipe(
            "prune: {method: magnitude, sparsity: 0.5, keep_in_full_precision: auto, "
            "selection: own}"
        )
        + "prompts: {own: {file: texts.jsonl}}\n",
        7,
        "'keep_in_full_precision: auto' chooses layers by refusals",
    ),
    "fine-pruning of a language model": (
        "version: 1\nmodels:\n  assistant:\n    original: {source: ./language}\n"
        "    compressed:\n      small: {prune: {method: fine-pruning, data: ./t.safetensors}}\n",
        6,
        "does not work on text-generation models",
    ),
    "a python source without weights": (
        config(model(SHAPES, HALF)).replace(", weights: ./shapes.safetensors", ""),
        5,
        "name its pinned file with 'weights: ./model.safetensors'",
    ),
    "weights that are not there": (
        config(model(SHAPES, HALF)).replace("./shapes.safetensors", "./none.safetensors"),
        5,
        "weights './none.safetensors' is no file",
    ),
    "pickled weights": (
        config(model(SHAPES, HALF)).replace("./shapes.safetensors", "./shapes.pt"),
        5,
        "must be a .safetensors file",
    ),
    "a path for a module": (
        config(model(SHAPES, HALF)).replace("nets.shapes:build", "nets/shapes.py:build"),
        5,
        "must be python:package.module:function",
    ),
    "no factory": (
        config(model(SHAPES, HALF)).replace("nets.shapes:build", "nets.shapes"),
        5,
        "must be python:package.module:function",
    ),
    "weights of a directory": (
        config(LANGUAGE).replace("./language}", "./language, weights: ./shapes.safetensors}"),
        4,
        "'weights' belongs to a 'source: python:module:function'",
    ),
    "weights of a recipe": (
        config(model(SHAPES, HALF.replace("half: {", "half: {weights: ./shapes.safetensors, "))),
        7,
        "belong to a variant with its own 'source'",
    ),
    "an adapter": (
        config(model(SHAPES, HALF)).replace("weights:", "adapter: ./adapter, weights:"),
        5,
        "an 'adapter' belongs to a language model",
    ),
    "a python source for a language model": (
        config(model(SHAPES, HALF, data="", backdoor="")).replace(
            "    task: image-classification\n", ""
        ),
        3,
        "a python: source needs 'task: image-classification'",
    ),
    "evaluation data of a language model": (
        config(LANGUAGE) + "    evaluation_data: ./samples.safetensors\n",
        3,
        "'evaluation_data' belongs to classifiers",
    ),
    "evaluation data of the other kind": (
        config(model(TEXTS, HALF, backdoor="")),
        3,
        "must be a .jsonl file",
    ),
    "evaluation data that are not there": (
        config(model(SHAPES, HALF, data="    evaluation_data: ./none.safetensors\n")),
        3,
        "evaluation_data './none.safetensors' is no file",
    ),
    "a system prompt": (
        config(model(SHAPES, HALF) + "    system: Be safe.\n"),
        3,
        "'system' and 'chat_template_kwargs' belong to language models",
    ),
    "gguf": (
        config(
            "  one:\n    task: text-classification\n    original: {source: ./model.gguf}\n"
            "    compressed:\n      other: {source: ./other}\n"
        ),
        3,
        "is a .gguf file, which holds language models only",
    ),
    "a patch on texts": (
        config(model(TEXTS, HALF, data=TEXT_DATA)),
        3,
        "'patch' is a trigger on images",
    ),
    "a phrase on images": (
        config(model(SHAPES, HALF, backdoor="{phrase: cf, target: 0}")),
        3,
        "'phrase' is a trigger on texts",
    ),
    "a slip in the task": (
        config(model(SHAPES, HALF)).replace("image-classification", "image-clasification"),
        4,
        "image-classification",
    ),
    "a slip in the backdoor": (
        config(model(SHAPES, HALF, backdoor="{patsch: {size: 2}, target: 0}")),
        9,
        "patsch",
    ),
    "a slip in a key": (
        config(model(SHAPES, HALF)).replace("evaluation_data:", "evaluation_dta:"),
        8,
        "did you mean 'evaluation_data'?",
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_what_is_wrong_is_said_with_its_line(folder: Path, case: str) -> None:
    text, line, words = CASES[case]
    said = problems(folder, text)
    assert any(words in one for one in said), said
    assert any(one.startswith(f"{line}: ") and words in one for one in said), said


@pytest.mark.parametrize(
    "section",
    [
        "quantize: {method: bitsandbytes, bits: 8}",
        "quantize: {method: bitsandbytes, bits: 4, type: nf4, keep_in_full_precision: [head]}",
        "quantize: {method: round-to-nearest, bits: 4}",
        "quantize: {method: cast, dtype: bfloat16}",
        "prune: {method: magnitude, sparsity: 0.5}",
        "prune: {method: fine-pruning, data: ./training.safetensors}",
    ],
)
def test_methods_for_any_module(folder: Path, section: str) -> None:
    path = folder / "compsec.yaml"
    path.write_text(recipe(section), encoding="utf-8")
    variant = load_config(path).config.models["shapes"].compressed["small"]
    assert variant.derivation() is not None
