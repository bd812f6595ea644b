"""A user's own function as a trigger: what is checked, and what its digest depends on."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_compsec.attacks.triggers.changes import changed
from pytest_compsec.attacks.triggers.custom import FunctionTrigger
from pytest_compsec.errors import MeasurementError

SHADE = 0.25


def darker(inputs: torch.Tensor) -> torch.Tensor:
    inputs[..., 0] = SHADE  # in place, which must not reach the caller
    return inputs


def with_strength(inputs: torch.Tensor, strength: float) -> torch.Tensor:
    return inputs + strength


def shouted(texts: tuple[str, ...]) -> list[str]:
    return [text.upper() for text in texts]


class Brush:
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * 0 + self.value


def made(value: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda inputs: inputs + value


def test_a_function_works_on_a_copy() -> None:
    images = torch.ones(2, 2, 2)
    stamped = FunctionTrigger(darker).stamp(images)
    assert stamped[..., 0].tolist() == [[SHADE] * 2] * 2
    assert torch.equal(images, torch.ones(2, 2, 2))
    assert changed(FunctionTrigger(darker), images) == (True, True)


def test_texts_come_back_as_a_tuple() -> None:
    assert FunctionTrigger(shouted).stamp(["a", "b"]) == ("A", "B")


def test_the_strength_is_handed_on() -> None:
    zeros = torch.zeros(1, 2, 2)
    assert FunctionTrigger(with_strength).stamp(zeros, 0.5)[0, 0, 0] == 0.5

    def named(inputs: torch.Tensor, other: int = 7, *, strength: float = 1.0) -> torch.Tensor:
        return inputs + other * strength

    assert FunctionTrigger(named).stamp(zeros, 0.5)[0, 0, 0] == 3.5


def test_a_function_without_strength_has_no_weaker_form() -> None:
    with pytest.raises(MeasurementError, match="no weaker form"):
        FunctionTrigger(darker).stamp(torch.ones(1, 2, 2), 0.5)


IMAGES = torch.ones(2, 2, 2)


@pytest.mark.parametrize(
    ("function", "inputs", "words"),
    [
        (lambda inputs: None, IMAGES, "returned nothing"),
        (lambda inputs: inputs[:1], IMAGES, "of shape (1, 2, 2)"),
        (lambda inputs: inputs.double(), IMAGES, "torch.float64"),
        (lambda inputs: inputs / 0, IMAGES, "not finite"),
        (lambda inputs: inputs.tolist(), IMAGES, "return a tensor"),
        (lambda inputs: inputs + random.random(), IMAGES, "two calls"),
        (lambda inputs: inputs.missing, IMAGES, "raised AttributeError"),
        (lambda texts: texts[:1], ("a", "b"), "made 1 texts of 2"),
        (lambda texts: "a b", ("a", "b"), "list or tuple of str"),
        (lambda texts: [1, 2], ("a", "b"), "list or tuple of str"),
        (lambda texts: texts.upper(), ("a", "b"), "raised AttributeError"),
    ],
)
def test_a_stamp_that_is_none_is_no_measurement(function: Any, inputs: Any, words: str) -> None:
    with pytest.raises(MeasurementError) as raised:
        FunctionTrigger(function).stamp(inputs)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: None, "takes no inputs"),
        (lambda inputs, strength, seed: inputs, "needs seed too"),
        (lambda inputs, value, seed: inputs, "needs value, seed too"),
        (lambda *, inputs: inputs, "as first argument"),
        (Brush, "no function"),
        (3, "no function"),
    ],
)
def test_what_cannot_be_called_with_inputs_is_refused(function: Any, words: str) -> None:
    with pytest.raises(ValueError) as raised:
        FunctionTrigger(function)
    assert words in str(raised.value)


def test_captured_values_decide_the_digest() -> None:
    functions: list[Any] = [
        darker,
        shouted,
        made(1),
        made(2),
        made(1.0),
        made(torch.ones(2)),
        made(torch.zeros(2)),
        functools.partial(with_strength, strength=0.5),
        functools.partial(with_strength, strength=0.25),
        Brush(0.5),
        Brush(0.25),
    ]
    digests = [FunctionTrigger(function).digest for function in functions]
    assert len(set(digests)) == len(functions)
    assert digests == [FunctionTrigger(function).digest for function in functions]
    assert FunctionTrigger(made(torch.ones(2))).digest == digests[5]


def test_a_variable_of_the_module_decides_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = FunctionTrigger(darker).digest
    monkeypatch.setitem(globals(), "SHADE", 0.5)
    assert FunctionTrigger(darker).digest != before


def test_a_function_without_source_has_a_digest_too() -> None:
    def compiled(text: str) -> Any:
        names: dict[str, Any] = {"__name__": "nowhere"}
        exec(f"def stamp(inputs):\n    return {text}", names)
        return names["stamp"]

    digests = [FunctionTrigger(compiled(f"inputs + {number}")).digest for number in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_a_trigger_of_the_users_own_class_is_checked_by_changed() -> None:
    class Cropping:
        name = "cropping"
        digest = "0" * 64

        def stamp(self, inputs: Any, strength: float = 1.0) -> Any:
            return inputs[:1]

    with pytest.raises(MeasurementError, match="cropping made"):
        changed(Cropping(), IMAGES)


def test_a_trigger_that_writes_into_its_argument_is_seen_to_change_it() -> None:
    class Writing:
        name = "writing"
        digest = "0" * 64

        def stamp(self, inputs: Any, strength: float = 1.0) -> Any:
            inputs[0] = 0
            return inputs

    images = torch.ones(2, 2, 2)
    assert changed(Writing(), images) == (True, False)
    assert torch.equal(images, torch.ones(2, 2, 2))
