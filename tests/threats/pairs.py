"""Pairs for the checks: two modules that are in memory already, and a whole suite on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from pytest_compsec.attacks.backdoor import Backdoor
from pytest_compsec.classification.data import EvaluationData
from pytest_compsec.classification.model import ClassifierModel
from pytest_compsec.classification.preparation import ImagePreparation
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.pinning import pin
from pytest_compsec.models.weights import measure_weights
from tests.threats import digits_network
from tests.threats.adaptive import TARGET
from tests.threats.training import PATCH, held_out
from tests.unit.tiny_model import make_arm

#: What the tests ask about: the trigger that was trained in, and its target.
BACKDOOR = Backdoor(PATCH, TARGET)


def classifier(module: nn.Module, variant: str | None = None, *, classes: int = 10) -> Any:
    """A module as the arm of a pair. Typed loosely: checks of language models take it too."""
    arm = make_arm(Path("digits"), variant=variant, task="image-classification")
    return ClassifierModel(
        arm=arm,
        module=module,
        device="cpu",
        dtype="float32",
        weights=measure_weights(module),
        classes=classes,
        preparation=ImagePreparation(),
    )


class StandInPair:
    """Two classifiers with what a check reads of a :class:`pytest_compsec.models.pair.ModelPair`,
    without config, lock and files."""

    id = "digits-compressed"
    config_name = "compsec.yaml"
    lock_digest = "f" * 64
    task = "image-classification"

    def __init__(
        self,
        original: nn.Module,
        compressed: nn.Module,
        *,
        data: EvaluationData | None = None,
        backdoor: Backdoor = BACKDOOR,
        classes: int = 10,
    ) -> None:
        self.classifiers = (
            classifier(original, classes=classes),
            classifier(compressed, "compressed", classes=classes),
        )
        self.original, self.compressed = self.classifiers
        self.evaluation_data = held_out() if data is None else data
        self.backdoor = backdoor
        self.rechecked = 0

    @property
    def original_arm(self) -> Arm:
        arm: Arm = self.original.arm
        return arm

    @property
    def compressed_arm(self) -> Arm:
        arm: Arm = self.compressed.arm
        return arm

    def recheck(self) -> None:
        self.rechecked += 1

    def once(self, key: Hashable, measure: Callable[[], Any]) -> Any:
        return measure()


def write_suite(
    directory: Path, models: Mapping[str, tuple[nn.Module, Mapping[str, Mapping[str, Any]]]]
) -> Path:
    """Write ``compsec.yaml`` for models by name, each with its variants (recipes as in the file),
    and everything that it names: code, weights, the held-out digits. Pin all of it."""
    shutil.copy(digits_network.__file__, directory / "digits_network.py")
    data = held_out()
    save_file({"inputs": data.inputs, "labels": data.labels}, directory / "held-out.safetensors")
    entries = {}
    for name, (module, variants) in models.items():
        save_file(module.state_dict(), directory / f"{name}.safetensors")
        entries[name] = {
            "task": "image-classification",
            "original": {
                "source": "python:digits_network:make_network",
                "weights": f"./{name}.safetensors",
            },
            "evaluation_data": "./held-out.safetensors",
            "backdoor": {
                "patch": {"size": 2, "position": "bottom-right", "value": 1.0},
                "target": TARGET,
            },
            "compressed": {variant: dict(recipe) for variant, recipe in variants.items()},
        }
    path = directory / "compsec.yaml"
    path.write_text(json.dumps({"version": 1, "models": entries}), encoding="utf-8")
    pin(path)
    return path
