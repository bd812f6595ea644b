"""A classifier in memory: the same logits whatever the batch, gradients, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.classification.model import both_classifiers
from pytest_compsec.classification.preparation import ImagePreparation, TextPreparation
from pytest_compsec.errors import MeasurementError
from pytest_compsec.models.loaded import LoadedModel
from tests.unit.classification.tiny_classifiers import (
    make_bert,
    make_vit,
    open_model,
    own_model,
    seeded,
    small_module,
)

TEXTS = ("good film", "the film was awful", "", "a", "bad " * 20, "fine", "the a was")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert") / "bert", positions=128)


class Returns(torch.nn.Module):
    """Returns what it is told to, whatever the batch."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: Any) -> Any:
        return self.value(images)


def test_images_give_the_same_logits_in_every_batch() -> None:
    module = small_module()
    module.train()  # a factory that leaves its module so would have it look at the whole batch
    model = own_model(module)
    images = seeded((11, 1, 8, 8))
    whole = model.logits(images)
    assert whole.dtype == torch.float32
    assert whole.shape == (11, 3)
    assert not whole.requires_grad
    for size in (1, 4, 10):
        assert torch.allclose(model.logits(images, batch_size=size), whole, atol=1e-5)
    assert torch.allclose(model.logits(images[[7]]), whole[[7]], atol=1e-5)
    assert torch.equal(model.predict(images), whole.argmax(1))
    assert model.predict(images).dtype == torch.int64
    assert model.logits(images[:0]).shape == (0, 3)


@pytest.mark.parametrize("size", [1, 2, 3, 256])
def test_texts_give_the_same_logits_in_every_batch(bert: Path, size: int) -> None:
    model = open_model(bert, "text-classification")
    texts = tuple(text for text in TEXTS if text)
    one_by_one = torch.cat([model.logits((text,)) for text in texts])
    assert one_by_one.std() > 0.01
    assert torch.allclose(model.logits(texts, batch_size=size), one_by_one, atol=1e-4)


def test_a_text_without_tokens_is_no_measurement(bert: Path) -> None:
    model = open_model(bert, "text-classification")
    with pytest.raises(MeasurementError, match=r"text 2 \(''\) has no token"):
        model.logits(TEXTS)


def test_texts_are_put_one_by_one_where_padding_would_mislead(bert: Path) -> None:
    import dataclasses

    model = open_model(bert, "text-classification")
    sizes: list[int] = []
    model.module.register_forward_pre_hook(
        lambda _module, _args, given: sizes.append(len(given["input_ids"])), with_kwargs=True
    )
    preparation = model.preparation
    assert isinstance(preparation, TextPreparation)
    alone = dataclasses.replace(model, preparation=dataclasses.replace(preparation, pads=False))
    alone.logits(("a", "good", "film"))
    assert sizes == [1, 1, 1]


def test_a_module_that_takes_texts_is_given_them() -> None:
    module = Returns(lambda texts: torch.tensor([[len(text), 3.0] for text in texts]))
    model = own_model(module, classes=2, preparation=TextPreparation(), task="text-classification")
    assert model.predict(("a", "abcd", "ab"), batch_size=2).tolist() == [1, 0, 1]


def test_gradients_reach_the_inputs_through_the_preparation() -> None:
    model = own_model(small_module(), preparation=ImagePreparation(mean=(0.5,), std=(0.25,)))
    images = seeded((2, 1, 8, 8)).requires_grad_()
    logits = model.forward(images)
    assert logits.dtype == torch.float32
    logits.sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    direct = ((images.detach() - 0.5) / 0.25).requires_grad_()
    model.module(direct).sum().backward()
    assert direct.grad is not None
    assert torch.allclose(images.grad, direct.grad / 0.25, atol=1e-5)


@pytest.mark.parametrize("layer", ["Linear8bitLt", "Linear4bit"])
def test_quantized_layers_pass_gradients_on(layer: str) -> None:
    import bitsandbytes

    dense = torch.nn.Linear(64, 3)
    options: dict[str, Any] = (
        {"has_fp16_weights": False} if layer == "Linear8bitLt" else {"quant_type": "nf4"}
    )
    quantized = getattr(bitsandbytes.nn, layer)(64, 3, **options)
    quantized.load_state_dict(dense.state_dict())
    model = own_model(torch.nn.Sequential(torch.nn.Flatten(), quantized.to("cpu")))
    images = seeded((4, 1, 8, 8))
    before = model.logits(images)  # bitsandbytes may repack 4-bit weights for the CPU here
    images.requires_grad_()
    logits = model.forward(images)
    assert torch.allclose(logits.detach(), before, atol=1e-6)
    logits.sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    expected = dense.weight.sum(0).detach().view(1, 1, 8, 8)
    assert torch.allclose(images.grad, expected.expand_as(images.grad), atol=0.06)


def test_forward_works_where_a_layer_passes_no_gradient_on() -> None:
    model = own_model(Returns(lambda images: images.detach().flatten(1)[:, :3]))
    logits = model.forward(seeded((2, 1, 8, 8)).requires_grad_())
    assert not logits.requires_grad


def test_inputs_are_cast_to_the_modules_type() -> None:
    model = own_model(small_module().to(torch.bfloat16), dtype="bfloat16")
    logits = model.logits(seeded((3, 1, 8, 8)))
    assert logits.dtype == torch.float32
    reference = own_model(small_module()).logits(seeded((3, 1, 8, 8)))
    assert torch.allclose(logits, reference, atol=0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_measurement(value: float) -> None:
    def broken(images: torch.Tensor) -> torch.Tensor:
        logits = images.flatten(1)[:, :3].clone()
        logits[0, 0] = value
        return logits

    model = own_model(Returns(broken))
    with pytest.raises(MeasurementError, match="2 of 4 samples are not finite"):
        model.predict(seeded((4, 1, 8, 8)), batch_size=2)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda images: images.flatten(1)[:, :4], r"\(5, 4\).*5 samples and 3 classes"),
        (lambda images: images.flatten(1)[:1, :3], r"\(1, 3\)"),
        (lambda images: images.flatten(1)[:, 0], r"\(5,\)"),
        (lambda images: (images,), "returns tuple"),
    ],
)
def test_what_is_no_logits_is_no_measurement(value: Any, said: str) -> None:
    with pytest.raises(MeasurementError, match=said):
        own_model(Returns(value)).logits(seeded((5, 1, 8, 8)))


def test_inputs_of_a_wrong_shape_are_told_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"\(2, 3, 8, 8\).*expects \(samples, 1, size, size"):
        own_model(small_module()).logits(seeded((2, 3, 8, 8)))
    model = open_model(make_vit(tmp_path))
    with pytest.raises(MeasurementError, match=r"\(2, 3, 9, 9\).*expects \(samples, 3, 8, 8\)"):
        model.logits(seeded((2, 3, 9, 9)))
    with pytest.raises(MeasurementError, match="normalizes 3 channels"):
        model.logits(seeded((2, 1, 8, 8)))


def test_texts_for_an_image_classifier_and_the_reverse(bert: Path) -> None:
    with pytest.raises(MeasurementError, match="inputs are texts"):
        own_model(small_module()).logits(("good film",))
    text_model = open_model(bert, "text-classification")
    with pytest.raises(MeasurementError, match="takes texts"):
        text_model.logits(seeded((2, 1, 8, 8)))
    with pytest.raises(MeasurementError, match="no gradients"):
        text_model.forward(seeded((2, 1, 8, 8)))


def test_nothing_of_a_language_model_can_be_had() -> None:
    model = own_model(small_module())
    as_loaded: LoadedModel = model
    with pytest.raises(MeasurementError, match="text-generation"):
        as_loaded.generate(["hello"])
    with pytest.raises(MeasurementError, match="classifier"):
        as_loaded.perplexities(["hello"], ["yes"])
    with pytest.raises(MeasurementError, match="tokenizer"):
        _ = as_loaded.tokenizer


class NoClassifier:
    def __init__(self, arm: Any) -> None:
        self.arm = arm


def test_two_arms_are_compared_only_where_they_can_be(bert: Path, tmp_path: Path) -> None:
    model = own_model(small_module())
    assert both_classifiers(model, model) == (model, model)
    language_model: Any = NoClassifier(model.arm)
    with pytest.raises(MeasurementError, match="no classifier"):
        both_classifiers(model, language_model)
    with pytest.raises(MeasurementError, match="3 and 4 classes"):
        both_classifiers(model, own_model(small_module(classes=4), classes=4))
    with pytest.raises(MeasurementError, match="other images"):
        both_classifiers(model, open_model(bert, "text-classification"))


def test_an_arm_that_lost_its_preparation_is_not_compared(tmp_path: Path) -> None:
    original = open_model(make_vit(tmp_path / "original"))
    without = open_model(make_vit(tmp_path / "compressed", preprocessor=None))
    with pytest.raises(MeasurementError, match=r"preprocessor_config\.json"):
        both_classifiers(original, without)
