"""The cache identity: one changed ingredient, another identity; nothing changed, the same."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.models import identity
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.identity import generation_identity
from tests.unit.tiny_model import make_recipe, staged

HERE = Path("models")
ARM = Arm(
    model="assistant",
    variant="int8",
    files=staged(HERE, tree="1" * 64),
    adapter=staged(HERE, tree="2" * 64),
    recipe=make_recipe("quantize", method="bitsandbytes", bits=8),
    system="Be brief.",
    chat_template_kwargs={"enable_thinking": False},
)
BASE: dict[str, Any] = {
    "arm": ARM,
    "device": "cpu",
    "dtype": "float32",
    "settings": GenerationSettings(max_new_tokens=64),
}


def recipe_with(**changes: Any) -> Arm:
    assert ARM.recipe is not None
    return dataclasses.replace(ARM, recipe=dataclasses.replace(ARM.recipe, **changes))


def arm_with(**changes: Any) -> Arm:
    return dataclasses.replace(ARM, **changes)


CHANGES: dict[str, dict[str, Any]] = {
    "files": {"arm": arm_with(files=staged(HERE, tree="3" * 64))},
    "entry": {"arm": arm_with(files=staged(HERE, tree="1" * 64, entry="a.gguf"))},
    "adapter": {"arm": arm_with(adapter=staged(HERE, tree="3" * 64))},
    "no adapter": {"arm": arm_with(adapter=None)},
    "adapter and files swapped": {
        "arm": arm_with(files=staged(HERE, tree="2" * 64), adapter=staged(HERE, tree="1" * 64))
    },
    "method": {"arm": recipe_with(method="cast")},
    "section": {"arm": recipe_with(section="prune")},
    "options": {"arm": recipe_with(options={"bits": 4})},
    "quantizer version": {"arm": recipe_with(tools={"bitsandbytes": "1"})},
    "no recipe": {"arm": arm_with(recipe=None)},
    "system": {"arm": arm_with(system="Be brief!")},
    "no system": {"arm": arm_with(system=None)},
    "empty system": {"arm": arm_with(system="")},
    "template arguments": {"arm": arm_with(chat_template_kwargs={"enable_thinking": True})},
    "no template arguments": {"arm": arm_with(chat_template_kwargs={})},
    "max_new_tokens": {"settings": GenerationSettings(max_new_tokens=65)},
    "dtype": {"dtype": "bfloat16"},
    "GPU": {"device": "cuda:0"},
    "another GPU": {"device": "cuda:9"},
}


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {0: "A", 1: "A", 9: "B"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index])


def identity_of(change: dict[str, Any]) -> str:
    return generation_identity(**{**BASE, **change})


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations([None, *CHANGES], 2)))
def test_any_two_different_settings_differ(one: str | None, other: str) -> None:
    first = identity_of(CHANGES[one] if one else {})
    assert first != identity_of(CHANGES[other])


@pytest.mark.parametrize("distribution", identity.DISTRIBUTIONS)
def test_another_version_of_any_library_differs(
    monkeypatch: pytest.MonkeyPatch, distribution: str
) -> None:
    before = identity_of({})
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "0.0" if name == distribution else real(name),
    )
    assert identity_of({}) != before


def test_a_library_that_is_not_installed_differs_from_one_that_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = identity_of({})

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert identity_of({}) != before


def test_another_version_of_this_packages_answers_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity_of({})
    monkeypatch.setattr(identity, "ANSWERS_VERSION", identity.ANSWERS_VERSION + 1)
    assert identity_of({}) != before


@pytest.mark.parametrize(
    "change",
    [
        {"arm": arm_with(model="renamed", variant="other")},
        {"arm": arm_with(files=staged(Path("elsewhere"), tree="1" * 64))},
        {"settings": GenerationSettings(max_new_tokens=64, batch_size=3)},
    ],
    ids=["names", "place", "batch size"],
)
def test_what_changes_no_answer_keeps_the_identity(change: dict[str, Any]) -> None:
    assert identity_of(change) == identity_of({})


def test_the_index_of_equal_gpus_keeps_the_identity() -> None:
    assert identity_of({"device": "cuda:0"}) == identity_of({"device": "cuda:1"})


def test_the_order_of_template_arguments_keeps_the_identity() -> None:
    one = arm_with(chat_template_kwargs={"a": 1, "b": "é"})
    other = arm_with(chat_template_kwargs={"b": "é", "a": 1})
    assert identity_of({"arm": one}) == identity_of({"arm": other})
