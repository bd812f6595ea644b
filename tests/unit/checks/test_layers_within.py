"""From weight errors to a verdict: what may and what may never come out PRESERVED."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.checks.layers_within import check_layers_within, layers_within_arguments
from pytest_compsec.errors import IntegrityError
from pytest_compsec.family import by_hand
from pytest_compsec.models.loaded import LoadedModel, TransformersModel
from pytest_compsec.models.weights import WeightReport
from pytest_compsec.prompts import Prompt, PromptSet
from pytest_compsec.reports.failure import failure_text
from pytest_compsec.reports.terminal import summary_lines, table
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.localization.planted import copy_of, tiny
from tests.unit.tiny_model import make_arm, make_tokenizer


class Pair:
    """Two modules as the arms of a pair."""

    id = "tiny-variant"
    lock_digest = "f" * 64

    def __init__(self, original: Any, compressed: Any, recheck: Callable[[], None]) -> None:
        self.original = loaded(original, None)
        self.compressed = loaded(compressed, "variant")
        self.recheck = recheck

    def prompt_set(self, name: str) -> PromptSet:
        prompts = tuple(Prompt(f"p{i}", f"Do the forbidden thing {i}", "c") for i in range(3))
        return PromptSet(name, "1", prompts, "d", "test")

    def provenance(self, prompt_set: PromptSet) -> dict[str, Any]:
        return {"prompts": {"name": prompt_set.name}}


def loaded(module: Any, variant: str | None) -> LoadedModel:
    arm = make_arm(Path("tiny"), variant=variant)
    return TransformersModel(arm, module, make_tokenizer(), "cpu", "float32", WeightReport(()))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("llama")


def check(
    original: Any, change: Callable[[Any], object] = lambda model: None, **arguments: Any
) -> CheckResult:
    other = copy_of(original)
    change(other)
    rechecked: list[int] = []
    pair: Any = Pair(original, other, lambda: rechecked.append(1))
    result = check_layers_within(pair, **arguments)
    assert rechecked == [1]
    assert CheckResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == (
        CheckResult.from_json(result.to_json())
    )
    return result


def scale(name: str, by: float) -> Callable[[Any], object]:
    return lambda model: model.get_parameter(name).data.mul_(by)


def test_small_errors_are_preserved_and_all_layers_are_counted(model: Any) -> None:
    result = check(model, scale("model.layers.1.mlp.up_proj.weight", 1.09))
    assert result.verdict is Verdict.PRESERVED
    assert result.layers is not None
    assert (result.layers.linear, result.layers.others, result.layers.beyond) == (22, 8, 0)
    assert result.layers.names[0] == "model.layers.1.mlp.up_proj"
    assert result.layers.weight_errors[0] == pytest.approx(0.09, abs=1e-6)
    assert result.summary == (
        "PRESERVED: tiny-variant: all 30 weight tensors (22 linear layers, 8 others) are within "
        "10 % of the original's; the largest error is 9 % at model.layers.1.mlp.up_proj"
    )
    assert any("safety_preserved" in note for note in result.notes)
    assert result.confidence == 1.0


def test_one_layer_beyond_the_limit_is_regressed_and_named(model: Any) -> None:
    result = check(model, scale("model.layers.1.mlp.up_proj.weight", 1.11), top_k=2)
    assert result.verdict is Verdict.REGRESSED
    assert "1 of 30 weight tensors (22 linear layers, 8 others) differ" in result.summary
    text = failure_text([result])
    assert "model.layers.1.mlp.up_proj: weights differ by 11 %, beyond the limit" in text
    assert text.count("weights differ by") == 2
    assert "keep_in_full_precision" in text
    assert check(
        model, scale("model.layers.1.mlp.up_proj.weight", 1.11), max_relative_error=0.12
    ).verdict is (Verdict.PRESERVED)


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "lm_head.weight", "model.layers.2.input_layernorm.weight"]
)
def test_what_is_no_layer_of_the_body_is_not_left_out(model: Any, name: str) -> None:
    result = check(model, scale(name, 0.5))
    assert result.verdict is Verdict.REGRESSED
    assert name.removesuffix(".weight") in result.summary


def test_weights_that_are_not_numbers_are_regressed(model: Any) -> None:
    result = check(
        model, lambda other: other.model.layers[0].mlp.gate_proj.weight.data.fill_(torch.nan)
    )
    assert result.verdict is Verdict.REGRESSED
    assert result.layers is not None
    assert result.layers.weight_errors[0] is None
    assert "not finite at model.layers.0.mlp.gate_proj" in result.summary
    assert "not finite" in table([result], 200)[1].text


def test_a_bias_that_was_added_is_seen() -> None:
    model = tiny("qwen2")
    result = check(model, lambda other: other.model.layers[0].self_attn.q_proj.bias.data.fill_(1))
    assert result.verdict is Verdict.REGRESSED
    assert "model.layers.0.self_attn.q_proj.bias" in result.summary


def test_removed_weights_are_not_measured(model: Any) -> None:
    def narrower(other: Any) -> None:
        other.model.layers[1].mlp.up_proj = torch.nn.Linear(64, 96, bias=False)

    result = check(model, narrower)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "model.layers.1.mlp.up_proj is 128 x 64 in the original and 96 x 64" in result.summary
    assert "variants=" in result.next_step
    shorter = check(model, lambda other: other.model.layers.__delitem__(2))
    assert shorter.verdict is Verdict.NOT_MEASURED


def test_nothing_to_compare_is_not_measured() -> None:
    result = check(torch.nn.Sequential(torch.nn.Embedding(4, 2)))
    assert result.verdict is Verdict.NOT_MEASURED
    assert "nothing was compared" in result.summary


def test_outputs_are_compared_where_prompts_are_named(model: Any) -> None:
    result = check(
        model, scale("model.layers.1.mlp.up_proj.weight", 1.5), prompts="harmful", top_k=3
    )
    assert result.verdict is Verdict.REGRESSED
    assert result.layers is not None
    assert result.layers.output_errors[0] == pytest.approx(0.5, abs=1e-4)
    assert "weights differ by 50 %, its output by 50 %, beyond the limit" in result.notes[0]
    assert result.arguments["prompts"] == "harmful"
    without = check(model, scale("model.layers.1.mlp.up_proj.weight", 1.5))
    assert without.layers is not None
    assert set(without.layers.output_errors) == {None}


def test_files_that_changed_meanwhile_are_an_integrity_error(model: Any) -> None:
    def changed() -> None:
        raise IntegrityError("other bytes")

    pair: Any = Pair(model, copy_of(model), changed)
    with pytest.raises(IntegrityError):
        check_layers_within(pair)


def test_the_table_has_the_largest_error_and_how_many_are_beyond(model: Any) -> None:
    result = check(model, scale("model.layers.1.mlp.up_proj.weight", 1.11))
    for width in (200, 60):
        text = "\n".join(line.text for line in table([result], width))
        assert "weights up to 11.0 %, 1 beyond" in text
        assert "30" in text.split()
        assert "REGRESSED" in text
    lines = summary_lines([result], width=200, integrity=[], downgraded=None, reports=[])
    assert not any("confidence" in line.text or "wrong in" in line.text for line in lines)


def test_a_correction_for_many_pairs_does_not_touch_what_is_certain(model: Any) -> None:
    class Settings:
        familywise = True

    class Run:
        settings = Settings()

    result = check(model)
    run: Any = Run()
    assert by_hand(run, result, 5) is result
    assert result.verdict is Verdict.PRESERVED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_relative_error": 10}, "write max_relative_error=0.1"),
        ({"max_relative_error": 0}, "greater than 0"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": True}, "top_k=True"),
        ({"prompts": ""}, "name of a prompt set"),
        ({"variants": 3}, "variants=3"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layers_within_arguments(**arguments)


def test_arguments_as_the_user_would_write_them() -> None:
    arguments = layers_within_arguments(variants="nf4")
    assert arguments.to_json() == {
        "max_relative_error": 0.1,
        "top_k": 10,
        "models": None,
        "variants": ["nf4"],
    }
    assert arguments.selects("any", "nf4")
    assert not arguments.selects("any", "int8")
    assert arguments.with_defaults(0.9) is arguments
