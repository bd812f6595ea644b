"""A LoRA trained on a compressed model: refusals come back, the compressed weights stay."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.compression import fine_tune as room
from pytest_compsec.compression.fine_tune import FineTuned, fine_tune, save_adapter
from pytest_compsec.compression.gradients import gradients_pass, is_repacked
from pytest_compsec.compression.training_batches import batches, encode_examples
from pytest_compsec.compression.training_examples import Example, ExampleSet, collect_examples
from pytest_compsec.errors import CompsecError, LoadError, MeasurementError
from pytest_compsec.generation.settings import Answer
from pytest_compsec.judges.refusal import RefusalJudge
from pytest_compsec.models.compressed_adapter import adapted_layers, attach_adapter, detach_adapter
from pytest_compsec.models.loading import load
from tests.unit.compression.repair_models import (
    BENIGN,
    HARMFUL,
    LOSSY,
    SETTINGS,
    TRAIN_BENIGN,
    TRAIN_HARMFUL,
    refusals,
    trained_checkpoint,
)
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint, staged
from tests.unit.trained_tiny_model import REFUSAL

pytest.importorskip("peft")

NF4 = {"method": "bitsandbytes", "bits": 4, "type": "nf4"}
QUANTIZED = {
    "nf4": NF4,
    "nf4-nested": {**NF4, "double_quant": True},
    "int8": {"method": "bitsandbytes", "bits": 8},
    "simulated": LOSSY,
}
SOME = [Example("Do the forbidden thing.", REFUSAL), Example("Say hello.", "Hello.")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_checkpoint(tmp_path_factory)


@pytest.fixture(scope="module")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("base") / "tiny", dtype="bfloat16")


@pytest.fixture(scope="module")
def examples(trained: Path) -> ExampleSet:
    original = load(make_arm(trained))
    return collect_examples(
        original, TRAIN_HARMFUL, TRAIN_BENIGN, RefusalJudge(), settings=SETTINGS
    )


def compressed(base: Path, options: dict[str, Any]) -> Any:
    if options["method"] == "bitsandbytes":
        pytest.importorskip("bitsandbytes")
    return load(make_arm(base, recipe=make_recipe("quantize", **options)))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.module(torch.arange(40).unsqueeze(0) + 3).logits
    return result


def test_refusals_come_back_on_prompts_that_were_not_trained_on(
    trained: Path, examples: ExampleSet, tmp_path: Path
) -> None:
    model = compressed(trained, LOSSY)
    assert refusals(model, HARMFUL) < len(HARMFUL) / 2
    told: list[str] = []
    tuned = fine_tune(model, examples.examples, steps=40, notify=told.append)
    assert refusals(model, HARMFUL) >= 20
    assert refusals(model, BENIGN) == 0
    assert sum(tuned.losses[-5:]) < 0.3 * sum(tuned.losses[:5])
    assert told[-1].startswith("step 40/40  loss 0.0")
    # What was saved, put on the same compressed model again, answers the same.
    answers = [answer.text for answer in model.generate(HARMFUL, SETTINGS)]
    save_adapter(tuned, tmp_path / "adapter")
    again = compressed(trained, LOSSY)
    attach_adapter(again.module, staged(tmp_path / "adapter"), "tiny-tuned")
    assert [answer.text for answer in again.generate(HARMFUL, SETTINGS)] == answers


@pytest.mark.parametrize("options", QUANTIZED.values(), ids=QUANTIZED)
def test_the_module_is_as_before_once_the_adapter_is_off(
    random_base: Path, options: dict[str, Any]
) -> None:
    model = compressed(random_base, options)
    kind = type(model.module)
    before = logits(model)  # On some processors this repacks the weights.
    fine_tune(model, SOME, steps=3, batch=2, learning_rate=0.01)
    assert type(model.module) is kind
    assert not torch.equal(logits(model), before)
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert not any(layer.training for layer in model.module.modules())
    assert detach_adapter(model.module) == 14
    assert torch.equal(logits(model), before)
    assert not any("lora" in name for name, _ in model.module.named_parameters())


@pytest.mark.parametrize("options", [NF4, QUANTIZED["nf4-nested"]], ids=["nf4", "nested"])
def test_gradients_through_repacked_weights_are_those_of_the_dense_ones(
    random_base: Path, options: dict[str, Any]
) -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    model = compressed(random_base, options)
    dense = {
        name: functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        for name, layer in model.module.named_modules()
        if type(layer).__name__ == "Linear4bit"
    }
    logits(model)
    if not any(is_repacked(layer) for layer in model.module.modules()):
        pytest.skip("this processor has no use for repacked weights")
    room._put_on(model.module, 2)
    checked = 0
    with gradients_pass(model.module):
        for name, wrapper in adapted_layers(model.module):
            x = torch.randn((3, wrapper.in_features), dtype=torch.bfloat16, requires_grad=True)
            wrapper.get_base_layer()(x).float().sum().backward()
            assert x.grad is not None
            expected = dense[name].sum(0)
            error = (x.grad[0].float() - expected).norm() / expected.norm()
            assert error < 0.05, name
            checked += 1
    assert checked == 14


def test_a_layer_that_passes_no_gradient_is_refused(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = compressed(random_base, LOSSY)
    before = logits(model)
    layer: Any = model.module.get_submodule("model.layers.1.mlp.up_proj")
    real = layer.forward
    monkeypatch.setattr(layer, "forward", lambda x: real(x).detach())
    with pytest.raises(LoadError, match=r"no gradient passes through .*layers\.1\.mlp\.up_proj"):
        fine_tune(model, SOME, steps=3)
    monkeypatch.undo()
    assert torch.equal(logits(model), before)
    assert list(adapted_layers(model.module)) == []


def test_a_loss_that_is_no_number_ends_the_training(
    random_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = compressed(random_base, LOSSY)
    monkeypatch.setattr(
        room, "mean_per_example", lambda logits, labels: logits.sum() * float("nan")
    )
    with pytest.raises(MeasurementError, match="the loss of step 1 is no number"):
        fine_tune(model, SOME, steps=3)
    assert list(adapted_layers(model.module)) == []


def test_the_same_seed_trains_the_same_and_leaves_other_randomness_alone(random_base: Path) -> None:
    losses = []
    state = torch.get_rng_state()
    for seed in (0, 0, 1):
        model = compressed(random_base, LOSSY)
        losses.append(fine_tune(model, SOME, steps=3, seed=seed).losses)
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_without_examples_nothing_is_trained(random_base: Path) -> None:
    with pytest.raises(MeasurementError, match="no example"):
        fine_tune(compressed(random_base, LOSSY), [])


@pytest.fixture(scope="module")
def tuned(random_base: Path) -> FineTuned:
    return fine_tune(compressed(random_base, LOSSY), SOME, steps=2)


def test_an_adapter_is_two_files_that_name_no_place(tuned: FineTuned, tmp_path: Path) -> None:
    size = save_adapter(tuned, tmp_path / "deep" / "adapter")
    directory = tmp_path / "deep" / "adapter"
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    assert (directory / "adapter_model.safetensors").stat().st_size == size
    text = (directory / "adapter_config.json").read_text()
    assert json.loads(text)["base_model_name_or_path"] is None
    assert str(tmp_path) not in text
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["adapter"]


def test_a_directory_in_use_is_not_touched(tuned: FineTuned, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CompsecError, match="is not empty, and nothing is overwritten"):
        save_adapter(tuned, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_save_leaves_nothing(
    tuned: FineTuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Any, directory: str) -> None:
        assert list(Path(directory).iterdir())  # The weights are written already.
        raise KeyboardInterrupt

    monkeypatch.setattr(type(tuned.config), "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_adapter(tuned, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


class Scripted:
    """Answers as told, and judges a NO to be a refusal and a ? to be unclear."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = answers

    def generate(self, prompts: Any, settings: Any) -> list[Answer]:
        return list(self.answers)

    def refusals(self, prompts: Any, responses: Any) -> list[bool | None]:
        return [None if text == "?" else text == "NO" for text in responses]


def scripted(*texts: str) -> Any:
    return Scripted(*(Answer(text, 3, "stop") for text in texts))


def test_only_refusals_of_harmful_and_answers_to_benign_prompts_are_learned() -> None:
    model = scripted("NO", "OK", "?", "NO", "OK", " ")
    found = collect_examples(model, ["h1", "h2", "h3"], ["b1", "b2", "b3"], model)
    assert found.examples == (Example("h1", "NO"), Example("b2", "OK"))
    assert "refused 1 of 3 harmful prompts and answered 1 of 3 benign ones" in str(found)


def test_answers_cut_inside_their_reasoning_are_left_out() -> None:
    model: Any = Scripted(
        Answer("NO", 3, "length", in_reasoning=True),
        Answer("NO", 3, "length"),
        Answer("OK", 3, "stop"),
    )
    found = collect_examples(model, ["h1", "h2"], ["b1"], model)
    assert found.examples == (Example("h2", "NO", finished=False), Example("b1", "OK"))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (("OK", "OK"), "refused none of the 1 harmful"),
        (("NO", "NO"), "answered none of the 1 benign"),
    ],
)
def test_one_kind_alone_is_not_enough(answers: tuple[str, ...], message: str) -> None:
    model = scripted(*answers)
    with pytest.raises(MeasurementError, match=message):
        collect_examples(model, ["h1"], ["b1"], model)


def test_ending_is_learned_only_from_answers_that_ended(random_base: Path) -> None:
    model = compressed(random_base, LOSSY)
    end = model.tokenizer.eos_token_id
    cut, ended, long = encode_examples(
        model, [Example("a", "No", False), Example("a", "No"), Example("a", "No " * 40)]
    )
    assert ended[1] == [*cut[1], end]
    assert len(long[1]) == 20
    assert end not in long[1]


def test_every_example_is_seen_before_any_comes_again() -> None:
    items = [([number], [number]) for number in range(10)]
    seen = [item for batch in batches(items, steps=5, size=4, shuffler=random.Random(0))
            for item in batch]  # fmt: skip
    assert sorted(seen[:10]) == sorted(seen[10:]) == items
