"""Two real :class:`ClassifierModel` as a pair, for the threats: no files, no lock, real checks."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import torch

from pytest_compsec.attacks.backdoor import Backdoor
from pytest_compsec.classification.data import EvaluationData
from pytest_compsec.classification.model import ClassifierModel
from pytest_compsec.classification.preparation import ImagePreparation
from pytest_compsec.compression.expectation import check, promised
from pytest_compsec.compression.methods import find, validated_options
from pytest_compsec.models.weights import measure_weights
from tests.unit.tiny_model import make_arm


class ClassifierPair:
    """An image classifier and its compressed form."""

    id = "tiny-variant"
    config_name = "compsec.yaml"
    lock_digest = "f" * 64
    task = "image-classification"

    def __init__(
        self,
        original: torch.nn.Module,
        compressed: torch.nn.Module,
        data: EvaluationData,
        backdoor: Backdoor,
        *,
        classes: int,
    ) -> None:
        self.classifiers = tuple(
            ClassifierModel(
                make_arm(Path("tiny"), variant=variant),
                module,
                "cpu",
                "float32",
                measure_weights(module),
                classes,
                ImagePreparation(),
            )
            for module, variant in ((original, None), (compressed, "variant"))
        )
        self.evaluation_data = data
        self.backdoor = backdoor
        self.rechecked = 0

    def recheck(self) -> None:
        self.rechecked += 1

    def once(self, key: Hashable, measure: Callable[[], Any]) -> Any:
        return measure()


def compressed_by(module: torch.nn.Module, section: str, **values: Any) -> torch.nn.Module:
    """A copy of ``module`` as the product compresses it with the method that ``values`` name; that
    it is what the method promises is checked as the loader checks it."""
    method = find(section, values["method"])
    options: Mapping[str, Any] = validated_options(section, values).model_dump()
    implementation = importlib.import_module(method.implementation)
    made: torch.nn.Module = implementation.apply(copy.deepcopy(module), options, "cpu").eval()
    check(measure_weights(made), promised(implementation, options, made))
    return made
