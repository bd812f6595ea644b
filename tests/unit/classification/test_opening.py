"""Opening Hugging Face classifiers: complete, single-label, and fed as their files say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_compsec.classification.opening import (
    classes_of,
    open_huggingface_classifier,
    preparation_of,
)
from pytest_compsec.classification.preparation import ImagePreparation, TextPreparation
from pytest_compsec.errors import CompsecError, LoadError
from tests.unit.classification.tiny_classifiers import (
    MEAN,
    STD,
    classifier_arm,
    make_bert,
    make_resnet,
    make_vit,
    open_model,
    seeded,
    small_module,
)
from tests.unit.tiny_model import make_arm, staged

VIT_FILE = "preprocessor_config.json"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vit(tmp_path_factory.mktemp("vit") / "vit")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture
def copy(vit: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vit, tmp_path / "vit"))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def opened(directory: Path, task: str = "image-classification") -> torch.nn.Module:
    return open_huggingface_classifier(
        classifier_arm(directory, task), dtype="float32", device="cpu"
    )


def test_images_are_normalized_as_the_preprocessor_config_says(vit: Path) -> None:
    model = open_model(vit)
    images = seeded((5, 3, 8, 8))
    normalized = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    expected = model.module(pixel_values=normalized).logits
    assert torch.allclose(model.logits(images), expected, atol=1e-5)
    assert not torch.allclose(model.logits(images), model.module(pixel_values=images).logits)
    assert model.classes == 3


@pytest.mark.parametrize(
    ("settings", "mean", "scale"),
    [
        ({"do_normalize": False, "image_mean": MEAN}, (), 1.0),
        ({"do_rescale": False, "do_normalize": False}, (), 255.0),
        ({"rescale_factor": 2 / 255, "do_normalize": False}, (), 2.0),
        ({"do_normalize": True, "image_mean": [0.5], "image_std": [0.5]}, (0.5,), 1.0),
        ({"do_resize": True, "do_center_crop": True}, (), 1.0),
    ],
)
def test_scale_and_normalization_follow_the_file(
    tmp_path: Path, settings: dict[str, Any], mean: tuple[float, ...], scale: float
) -> None:
    (tmp_path / VIT_FILE).write_text(json.dumps(settings))
    found = preparation_of(classifier_arm(tmp_path), torch.nn.Identity())
    assert isinstance(found, ImagePreparation)
    assert found.declared
    assert found.mean == mean
    assert found.scale == pytest.approx(scale)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_pad": True}, "do_pad"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"rescale_offset": True}, "rescale_offset"),
        ({"image_processor_type": "EfficientNetImageProcessor"}, "include_top"),
        ({"image_processor_type": "TimmWrapperImageProcessor"}, "not in the file"),
        ({"image_mean": MEAN, "image_std": STD}, "do_normalize"),
        ({"do_normalize": True}, "image_mean"),
        ({"do_normalize": True, "image_mean": MEAN, "image_std": [0.5, 0.5]}, "image_std"),
        ({"do_normalize": True, "image_mean": MEAN, "image_std": [0.5, 0, 1]}, "image_std"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
    ],
)
def test_a_preparation_that_cannot_be_followed_is_refused(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    (tmp_path / VIT_FILE).write_text(json.dumps(settings))
    with pytest.raises(LoadError, match=said):
        preparation_of(classifier_arm(tmp_path), torch.nn.Identity())


def test_a_resnet_with_its_buffers_opens_complete(tmp_path: Path) -> None:
    model = open_model(make_resnet(tmp_path / "resnet"))
    assert model.logits(seeded((3, 3, 32, 32))).shape == (3, 4)


def test_a_missing_head_is_an_error_and_not_a_random_one(copy: Path) -> None:
    edit_weights(copy, lambda tensors: tensors.pop("classifier.weight"))
    with pytest.raises(LoadError, match=r"would be random: classifier\.weight"):
        opened(copy)


def test_the_backbone_alone_is_no_classifier(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config.image_size, config.patch_size = 8, 4
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="classifier"):
        opened(tmp_path)


def test_a_head_of_another_number_of_classes_is_an_error(copy: Path) -> None:
    def widen(tensors: dict[str, torch.Tensor]) -> None:
        tensors["classifier.weight"] = torch.zeros(5, 16)

    edit_weights(copy, widen)
    with pytest.raises(LoadError, match="another shape"):
        opened(copy)


def test_codes_without_scales_are_an_error(copy: Path) -> None:
    def encode(tensors: dict[str, torch.Tensor]) -> None:
        tensors["classifier.weight"] = tensors["classifier.weight"].to(torch.int8)

    edit_weights(copy, encode)
    with pytest.raises(LoadError, match="stored as I8"):
        opened(copy)


def test_pickled_weights_are_never_opened(copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(LoadError, match="safetensors"):
        opened(copy)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_heads_that_choose_no_class_are_refused(copy: Path, problem: str) -> None:
    edit_json(copy / "config.json", problem_type=problem)
    with pytest.raises(LoadError, match=problem):
        opened(copy)


def test_a_head_of_one_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="one label"):
        opened(make_vit(tmp_path, labels=1))


def test_a_claim_of_quantization_that_the_files_do_not_show_is_refused(copy: Path) -> None:
    edit_json(
        copy / "config.json",
        quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True},
    )
    with pytest.raises(CompsecError, match="full precision"):
        opened(copy)


def test_packed_classifiers_and_adapters_and_single_files_are_refused(copy: Path) -> None:
    with pytest.raises(LoadError, match="single file"):
        open_huggingface_classifier(
            classifier_arm(copy, files=staged(copy, entry="model.gguf")),
            dtype="float32",
            device="cpu",
        )
    edit_json(copy / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(LoadError, match="'gptq'"):
        opened(copy)
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(LoadError, match="adapter"):
        opened(copy)


def test_a_language_models_task_is_refused(vit: Path) -> None:
    with pytest.raises(LoadError, match="text-generation"):
        open_huggingface_classifier(make_arm(vit), dtype="float32", device="cpu")


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_classifier_saved_by_bitsandbytes_opens_quantized(
    tmp_path: Path, bert: Path, quantization: str
) -> None:
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    options: dict[str, Any] = (
        {"load_in_8bit": True}
        if quantization == "int8"
        else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    )
    make: Any = BitsAndBytesConfig
    architecture: Any = AutoModelForSequenceClassification
    architecture.from_pretrained(
        bert, quantization_config=make(**options), device_map={"": "cpu"}
    ).save_pretrained(tmp_path)
    for file in bert.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    model = open_model(tmp_path, "text-classification")
    assert model.weights.bits == (8 if quantization == "int8" else 4)
    dense = open_model(bert, "text-classification")
    texts = ("good film", "the film was awful")
    gap = (model.logits(texts) - dense.logits(texts)).abs().max()
    assert 0 < gap < 2


def test_texts_are_cut_off_where_the_model_ends(bert: Path) -> None:
    model = open_model(bert, "text-classification")
    assert isinstance(model.preparation, TextPreparation)
    assert model.preparation.max_length == 32
    assert model.preparation.pads
    beginning = "a good film " * 4
    long = model.logits((beginning + "and more of it",))
    assert torch.equal(long, model.logits((beginning + "but something else",)))


def test_positions_of_roberta_begin_after_the_padding_one(bert: Path) -> None:
    module = torch.nn.Module()
    module.position_embeddings = torch.nn.Embedding(34, 4, padding_idx=1)
    found = preparation_of(classifier_arm(bert, "text-classification"), module)
    assert isinstance(found, TextPreparation)
    assert found.max_length == 32


def test_another_padding_token_than_the_configs_is_never_used(bert: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(bert, tmp_path / "bert"))
    edit_json(directory / "config.json", pad_token_id=7)
    preparation = open_model(directory, "text-classification").preparation
    assert isinstance(preparation, TextPreparation)
    assert not preparation.pads


def test_texts_without_a_tokenizer_are_an_error(bert: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(bert, tmp_path / "bert"))
    for file in directory.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(LoadError, match="no tokenizer"):
        open_model(directory, "text-classification")


def test_classes_of_a_module_of_ones_own() -> None:
    arm = classifier_arm(Path("nowhere"))
    module = small_module(classes=7)
    assert classes_of(arm, module) == 7
    module.num_classes = 5  # type: ignore[assignment]
    assert classes_of(arm, module) == 5
    with pytest.raises(LoadError, match="num_classes"):
        classes_of(arm, torch.nn.Identity())
    with pytest.raises(LoadError, match="it has 1"):
        classes_of(arm, torch.nn.Linear(3, 1))
