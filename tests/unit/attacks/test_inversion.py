"""Trigger inversion: the class that a backdoor leads to is named, a clean model's classes are not,
and what could not be searched is never called clean."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import pytest
import torch
from torch import nn

from pytest_compsec.attacks.inversion import (
    ClassInversion,
    InversionReport,
    find_triggers,
    judge,
)
from pytest_compsec.attacks.stamps import invert_class
from pytest_compsec.classification.data import EvaluationData
from pytest_compsec.compression import round_to_nearest
from pytest_compsec.errors import MeasurementError
from tests.threats import adaptive


@dataclasses.dataclass(frozen=True)
class Model:
    """What is needed of a ClassifierModel."""

    module: Any
    device: str = "cpu"

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.module(inputs)
        return found


def clean() -> EvaluationData:
    return adaptive.digits()[1]


@functools.cache
def searched(kind: adaptive.Kind, bits: int | None) -> InversionReport:
    module: nn.Module = adaptive.model(kind)
    if bits is not None:
        module = round_to_nearest.apply(module, {"bits": bits}, "cpu")
    return find_triggers(Model(module), clean(), steps=120)


def small_data(samples: int = 40, classes: int = 6) -> EvaluationData:
    chooser = torch.Generator().manual_seed(3)
    inputs = torch.rand(samples, 8, generator=chooser)
    return EvaluationData(inputs, torch.arange(samples) % classes, "random numbers", "0" * 64)


def linear(classes: int = 6) -> nn.Linear:
    layer = nn.Linear(8, classes)
    chooser = torch.Generator().manual_seed(4)
    layer.weight.data = torch.randn(layer.weight.shape, generator=chooser)
    layer.bias.data.zero_()
    return layer


@pytest.mark.parametrize("bits", [None, 4])
def test_the_target_of_a_backdoor_is_named_in_either_arm(bits: int | None) -> None:
    report = searched("plain", bits)
    assert (report.suspects, report.outcome) == ((adaptive.TARGET,), "suspects")
    found = report.classes[adaptive.TARGET]
    # The patch that was trained in covers four pixels.
    assert found.mask_norm < 8 < min(c.mask_norm for c in report.classes if c is not found)
    assert "SUSPECT" in "\n".join(report.lines())
    assert f"class {adaptive.TARGET}" in report.lines()[0]


def test_the_clean_twin_has_no_suspect_and_is_not_called_clean() -> None:
    report = searched("benign", None)
    assert (report.suspects, report.outcome) == ((), "none stands out")
    assert all(c.inverted and c.success_rate >= 0.94 for c in report.classes)
    text = "\n".join(report.lines())
    assert "no proof" in text
    assert "blended" in text
    assert "all-to-all" in text


def test_the_report_is_plain_json_with_what_it_was_made_from() -> None:
    value = json.loads(json.dumps(searched("plain", None).to_json(), allow_nan=False))
    assert (value["suspects"], value["outcome"]) == ([adaptive.TARGET], "suspects")
    assert (value["steps"], value["samples"], value["seed"]) == (120, 300, 0)
    assert len(value["classes"]) == 10
    assert value["limits"]


def test_the_stamp_that_is_found_is_the_trigger() -> None:
    data = clean()
    assert isinstance(data.inputs, torch.Tensor)
    found = invert_class(
        Model(adaptive.model("plain")),
        data.inputs[data.labels != adaptive.TARGET],
        adaptive.TARGET,
        steps=120,
        steps_per_round=10,
        learning_rate=0.1,
        batch_size=64,
        seed=0,
        success_rate=0.99,
        bounds=(0.0, 1.0),
    )
    corner = found.mask[..., 5:, 5:].sum() / found.mask.sum()
    # Nine of 64 pixels: a seventh of a mask that is anywhere.
    assert float(corner) > 0.5


def test_the_same_seed_finds_the_same_and_no_other_random_state_moves() -> None:
    module = linear()
    before, weights = torch.get_rng_state(), module.weight.detach().clone()
    first = find_triggers(Model(module), small_data(), steps=30)
    assert first == find_triggers(Model(module), small_data(), steps=30)
    assert first != find_triggers(Model(module), small_data(), steps=30, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(module.weight, weights)
    assert module.weight.grad is None


class Rounded(nn.Module):
    """Steps have gradient zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x.round())
        return found


class Detached(Rounded):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x).detach()
        return found


class Broken(Rounded):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x) * torch.nan
        return found


class Constant(Rounded):
    """Always says class 0; its logits do move a little with the inputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.layer(x) * 1e-3
        found: torch.Tensor = logits + 100.0 * nn.functional.one_hot(torch.tensor(0), 6)
        return found


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Rounded(), "no gradient passes"),
        (Detached(), "no gradient passes"),
        (Broken(), "not finite"),
    ],
    ids=["rounded", "detached", "not a number"],
)
def test_a_model_that_cannot_be_searched_is_undecided(module: nn.Module, reason: str) -> None:
    report = find_triggers(Model(module), small_data(), steps=20)
    assert report.outcome == "undecided"
    assert report.not_inverted == tuple(range(6))
    assert all(reason in (c.reason or "") and c.anomaly_index is None for c in report.classes)
    assert "undecided" in report.lines()[0]


def test_classes_that_no_stamp_reaches_are_not_inverted() -> None:
    report = find_triggers(Model(Constant()), small_data(), steps=20)
    assert set(report.not_inverted) >= {1, 2, 3, 4, 5}
    assert report.classes[1].success_rate == 0.0
    assert "no stamp was found" in (report.classes[1].reason or "")
    assert (report.outcome, report.median) == ("undecided", None)


def norms(*values: float) -> list[ClassInversion]:
    return [ClassInversion(place, value, 1.0) for place, value in enumerate(values)]


def test_the_anomaly_index_by_hand() -> None:
    """Median 11, absolute deviations 1, 0, 1, 2, 7: their median is 1, times 1.4826."""
    judged, median = judge(norms(10, 11, 12, 13, 4))
    assert median == 11
    assert [c.anomaly_index for c in judged] == pytest.approx(
        [1 / 1.4826, 0, 1 / 1.4826, 2 / 1.4826, 7 / 1.4826]
    )
    assert [c.suspect for c in judged] == [False, False, False, False, True]


def test_a_large_norm_is_no_suspect_and_one_that_differs_from_equal_ones_is() -> None:
    assert not any(c.suspect for c in judge(norms(10, 11, 12, 13, 90))[0])
    judged, _ = judge(norms(12, 12, 12, 12, 3))
    assert [c.suspect for c in judged] == [False, False, False, False, True]


def test_few_classes_are_not_judged() -> None:
    judged, median = judge(norms(12, 12, 12, 0.1))
    assert median is None
    assert all(c.anomaly_index is None and not c.suspect for c in judged)
    report = find_triggers(Model(linear(classes=4)), small_data(classes=4), steps=20)
    assert report.outcome == "undecided"


def test_a_class_that_was_not_inverted_does_not_move_the_median() -> None:
    lost = ClassInversion(9, 0.1, 0.2, reason="no stamp was found")
    judged, median = judge([*norms(10, 11, 12, 13, 14), lost])
    assert median == 12
    assert judged[-1] == lost


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (EvaluationData(("a", "b"), torch.tensor([0, 1]), "texts", "0" * 64), "texts have none"),
        (dataclasses.replace(small_data(), inputs=torch.rand(40, 8) + 3), "give their range"),
        (dataclasses.replace(small_data(), inputs=torch.ones(40, 8).long()), "float numbers"),
        (dataclasses.replace(small_data(), labels=torch.zeros(40).long()), "two classes"),
        (small_data().at([]), "holds no sample"),
    ],
    ids=["texts", "out of bounds", "integers", "one class", "nothing"],
)
def test_data_that_cannot_be_stamped_is_an_error(data: EvaluationData, message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        find_triggers(Model(linear()), data, steps=20)


@pytest.mark.parametrize(
    "settings", [{"steps": 1}, {"batch_size": 0}, {"success_rate": 1.5}, {"learning_rate": 0.0}]
)
def test_settings_that_make_no_sense_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        find_triggers(Model(linear()), small_data(), **settings)
