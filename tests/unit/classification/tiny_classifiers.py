"""Tiny, randomly initialised classifiers as Hugging Face directories, and one module of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pytest_compsec.classification.model import ClassifierModel
from pytest_compsec.classification.opening import (
    classes_of,
    open_huggingface_classifier,
    preparation_of,
)
from pytest_compsec.classification.preparation import ImagePreparation, Preparation
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.weights import measure_weights
from tests.unit.tiny_model import make_arm, make_tokenizer

WORDS = ("good", "bad", "fine", "awful", "film", "the", "a", "was")
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def save(make: Any, config: Any, directory: Path, seed: int = 0) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make(config).save_pretrained(directory)
    return directory


def make_vit(directory: Path, *, labels: int = 3, preprocessor: Any = "default") -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    make: Any = ViTConfig  # num_labels is missing from the constructors' types
    config = make(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_channels=3,
        num_labels=labels,
        initializer_range=0.5,
    )
    save(ViTForImageClassification, config, directory)
    if preprocessor == "default":
        preprocessor = {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "rescale_factor": 1 / 255,
            "image_mean": MEAN,
            "image_std": STD,
            "size": {"height": 8, "width": 8},
        }
    if preprocessor is not None:
        (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return directory


def make_resnet(directory: Path) -> Path:
    from transformers import ResNetConfig, ResNetForImageClassification

    make: Any = ResNetConfig
    config = make(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4
    )
    return save(ResNetForImageClassification, config, directory)


def make_bert(directory: Path, *, labels: int = 2, positions: int = 32) -> Path:
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = make_tokenizer()
    make: Any = BertConfig
    config = make(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        num_labels=labels,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )
    save(BertForSequenceClassification, config, directory)
    tokenizer.save_pretrained(directory)
    return directory


def classifier_arm(directory: Path, task: str = "image-classification", **fields: Any) -> Arm:
    return make_arm(directory, task=task, **fields)


def open_model(
    directory: Path, task: str = "image-classification", dtype: str = "float32"
) -> ClassifierModel:
    arm = classifier_arm(directory, task)
    module = open_huggingface_classifier(arm, dtype=dtype, device="cpu")
    return ClassifierModel(
        arm=arm,
        module=module,
        device="cpu",
        dtype=dtype,
        weights=measure_weights(module),
        classes=classes_of(arm, module),
        preparation=preparation_of(arm, module),
    )


def own_model(
    module: torch.nn.Module,
    *,
    classes: int = 3,
    dtype: str = "float32",
    preparation: Preparation | None = None,
    task: str = "image-classification",
) -> ClassifierModel:
    return ClassifierModel(
        arm=classifier_arm(Path("nowhere"), task),
        module=module,
        device="cpu",
        dtype=dtype,
        weights=measure_weights(module),
        classes=classes,
        preparation=ImagePreparation() if preparation is None else preparation,
    )


class Small(torch.nn.Module):
    """A convolution, batch normalization and dropout before the classes: everything that makes a
    prediction depend on its batch when a module is left in training mode."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 4, 3)
        self.normalization = torch.nn.BatchNorm2d(4)
        self.dropout = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(4 * 6 * 6, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(torch.relu(self.normalization(self.convolution(images))))
        logits: torch.Tensor = self.head(hidden.flatten(1))
        return logits


def seeded(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Numbers in [0, 1), the same at every call."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def small_module(seed: int = 0, classes: int = 3) -> Small:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Small(classes)
