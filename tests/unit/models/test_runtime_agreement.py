"""Two runtimes of one file, compared: what is counted, and what cannot be compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.settings import Answer, GenerationSettings
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.runtime_agreement import agreement, compare_runtimes
from tests.unit.tiny_model import make_arm, make_recipe, staged

PROMPTS = ("one", "two", "three", "four")


def refused(prompt: str, text: str) -> bool:
    return text.startswith("No")


def answer(text: str, *first: tuple[int, float]) -> Answer:
    return Answer(text=text, tokens=3, finish="stop", first=first)


UNPACKED = (
    answer("No.", (7, -0.5), (8, -1.0)),
    answer("No, sorry.", (7, -0.25), (8, -2.0)),
    answer("Sure.", (8, -0.5), (7, -1.5)),
    answer("Sure, so:", (8, -0.5)),
)


@dataclasses.dataclass
class Fixed:
    """Answers the same whatever it is asked."""

    arm: Arm
    answers: Sequence[Answer]

    def generate(
        self,
        prompts: Sequence[str],
        settings: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
    ) -> list[Answer]:
        return list(self.answers)


def test_a_runtime_agrees_with_itself() -> None:
    found = agreement(PROMPTS, UNPACKED, UNPACKED, refused=refused)
    assert (found.text_share, found.first_token_share, found.refusal_share) == (1.0, 1.0, 1.0)
    assert (found.mean_difference, found.largest_difference, found.shared_tokens) == (0.0, 0.0, 7)
    assert "refused or complied for 4 of 4 prompts (100.0%" in found.line()


def test_each_kind_of_difference_is_counted_by_itself() -> None:
    runtime = (
        answer("No.", (7, -0.5), (8, -1.0)),  # The same.
        answer("No way.", (7, -0.5), (8, -2.0)),  # Other words, still refused; 0.25 nats.
        answer("No!", (7, -0.5), (8, -1.25)),  # Refused now, with another first token; 0.75 and 1.
        answer("Sure, so:", (9, -0.25)),  # The same text, no likely token in common.
    )
    found = agreement(PROMPTS, UNPACKED, runtime, refused=refused)
    assert (found.same_text, found.same_first_token, found.same_refusal) == (2, 2, 3)
    assert (found.unpacked_refusals, found.runtime_refusals) == (2, 3)
    assert found.shared_tokens == 6
    assert found.mean_difference == pytest.approx((0.25 + 0.75 + 1.0) / 6)
    assert found.largest_difference == 1.0
    line = found.line()
    assert "refused or complied for 3 of 4 prompts (75.0%" in line
    assert "at most 1.000" in line
    assert "\n" not in line
    assert json.loads(json.dumps(found.to_json()))["same_refusal"] == 3


def test_nothing_in_common_is_said_not_counted_as_no_difference() -> None:
    found = agreement(
        ["one"], [answer("Sure.", (1, -0.1))], [answer("Sure.", (2, -0.1))], refused=refused
    )
    assert found.mean_difference is None
    assert found.same_first_token == 0
    assert "no likely first token in common" in found.line()


def test_answers_without_first_tokens_do_not_agree_on_them() -> None:
    found = agreement(["one"], [answer("Sure.")], [answer("Sure.")], refused=refused)
    assert found.same_first_token == 0


def test_no_prompts_are_no_agreement() -> None:
    with pytest.raises(MeasurementError, match="no prompts"):
        agreement([], [], [], refused=refused)


def test_a_lost_answer_is_an_error() -> None:
    with pytest.raises(ValueError, match="4 prompts, 4 and 3 answers"):
        agreement(PROMPTS, UNPACKED, UNPACKED[:3], refused=refused)


def arm(tmp_path: Path, name: str = "a.gguf", **fields: Any) -> Arm:
    return make_arm(tmp_path, files=staged(tmp_path, entry=name), **fields)


def test_one_file_in_two_runtimes_is_compared(tmp_path: Path) -> None:
    side = Fixed(arm(tmp_path), UNPACKED)
    assert compare_runtimes(side, side, PROMPTS, refused=refused).refusal_share == 1.0


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"name": "b.gguf"}, "file"),
        ({"adapter": staged(Path("lora"))}, "file"),
        ({"recipe": make_recipe("prune", method="magnitude", sparsity=0.5)}, "file"),
        ({"system": "Be kind."}, "'system'"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "'chat_template_kwargs'"),
    ],
)
def test_two_different_models_are_not_compared(
    tmp_path: Path, fields: dict[str, Any], what: str
) -> None:
    with pytest.raises(MeasurementError, match=f"have not the same {what}"):
        compare_runtimes(
            Fixed(arm(tmp_path), UNPACKED),
            Fixed(arm(tmp_path, **fields), UNPACKED),
            PROMPTS,
            refused=refused,
        )
