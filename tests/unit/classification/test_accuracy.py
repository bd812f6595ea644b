"""Right predictions, counted over all samples and per class."""

from __future__ import annotations

import pytest
import torch

from pytest_compsec.classification.accuracy import correct, per_class, require_labels
from pytest_compsec.classification.reading import as_evaluation_data
from pytest_compsec.errors import MeasurementError

LABELS = torch.tensor([0, 2, 2, 0, 2])


def test_right_predictions_are_counted_per_class() -> None:
    hits = correct(torch.tensor([0, 2, 1, 1, 2]), LABELS)
    assert hits == (True, True, False, False, True)
    assert per_class(hits, LABELS) == ((0, 1, 2), (2, 2, 3))


def test_lengths_that_differ_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="samples"):
        correct(torch.tensor([0, 1]), LABELS)
    with pytest.raises(ValueError, match="argument"):
        per_class((True,), LABELS)


def test_labels_beyond_the_models_classes_are_no_measurement() -> None:
    data = as_evaluation_data((torch.zeros(5, 4), LABELS), source="data.safetensors")
    require_labels(data, 3)
    with pytest.raises(MeasurementError, match=r"^data\.safetensors: 3 of 5 labels .* 2 classes"):
        require_labels(data, 2)
