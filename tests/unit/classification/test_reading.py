"""Evaluation data: every form that a user may give is read the same, everything else is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pytest_compsec.classification.data import EvaluationData
from pytest_compsec.classification.reading import as_evaluation_data, read_evaluation_data
from pytest_compsec.errors import ConfigError
from tests.unit.classification.tiny_classifiers import seeded

IMAGES = seeded((6, 1, 4, 4))
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
TEXTS = ["good", "bad", "naïve café", ""]
BATCHES = [(IMAGES[:4], LABELS[:4]), (IMAGES[4:], LABELS[4:])]
SAMPLES = [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]


def read(value: object) -> EvaluationData:
    return as_evaluation_data(value, source="the fixture")


class OwnDataset(Dataset[Any]):
    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return SAMPLES[place]

    def __len__(self) -> int:
        return len(SAMPLES)


def tensors() -> TensorDataset:
    return TensorDataset(IMAGES, LABELS)


@pytest.mark.parametrize(
    "value",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS],
        (IMAGES.numpy(), LABELS.numpy()),
        (IMAGES.double().numpy(), LABELS.to(torch.uint8)),
        (IMAGES.tolist(), LABELS.tolist()),
        (list(IMAGES), list(LABELS)),
        {"inputs": IMAGES, "labels": LABELS},
        DataLoader(tensors(), batch_size=4),
        DataLoader(OwnDataset(), batch_size=1),
        tensors(),
        OwnDataset(),
        BATCHES,
        tuple(BATCHES),
        iter(BATCHES),
        SAMPLES,
        [{"inputs": images, "labels": labels} for images, labels in BATCHES],
    ],
)
def test_every_form_is_read_as_the_same_data(value: object) -> None:
    data = read(value)
    expected = read((IMAGES, LABELS))
    assert torch.equal(torch.as_tensor(data.inputs), IMAGES)
    assert data.labels.tolist() == LABELS.tolist()
    assert data.labels.dtype == torch.int64
    assert data.digest == expected.digest
    assert len(data.digest) == 64
    assert (data.source, data.pinned, len(data), data.is_text) == ("the fixture", False, 6, False)


def test_two_samples_are_not_taken_for_two_batches() -> None:
    rows = [[1.0, 2.0], [3.0, 4.0]]
    assert torch.equal(torch.as_tensor(read((rows, [0, 1])).inputs), torch.tensor(rows))
    mixed = read(([[1.0, 2.0], [3, 4.0]], [0, 1]))
    assert mixed.labels.tolist() == [0, 1]
    assert read((["good", "bad"], [1, 0])).inputs == ("good", "bad")
    assert read([("good", 1), ("bad", 0)]).inputs == ("good", "bad")
    assert read([(["good", "bad"], [1, 0]), (["fine", "a"], [1, 0])]).labels.tolist() == [1, 0] * 2


@pytest.mark.parametrize(
    "value",
    [
        (TEXTS, [1, 0, 1, 0]),
        (tuple(TEXTS), torch.tensor([1, 0, 1, 0])),
        (np.array(TEXTS), np.array([1, 0, 1, 0])),
        list(zip(TEXTS, [1, 0, 1, 0], strict=True)),
        DataLoader(list(zip(TEXTS, [1, 0, 1, 0], strict=True)), batch_size=3),  # type: ignore[arg-type]
    ],
)
def test_texts_are_kept_as_texts(value: object) -> None:
    data = read(value)
    assert data.is_text
    assert data.inputs == tuple(TEXTS)
    assert data.labels.tolist() == [1, 0, 1, 0]
    assert data.digest == read((TEXTS, [1, 0, 1, 0])).digest


def test_data_that_are_read_already_stay_as_they_are() -> None:
    data = read((IMAGES, LABELS))
    assert as_evaluation_data(data, source="another") is data


def test_a_shuffled_loader_is_read_once_and_keeps_pairs_together() -> None:
    passes = []

    class Counted(DataLoader[Any]):
        def __iter__(self) -> Any:
            passes.append(1)
            return super().__iter__()

    numbers = torch.arange(50).float().reshape(50, 1)
    loader = Counted(TensorDataset(numbers, numbers[:, 0].long()), batch_size=8, shuffle=True)
    data = read(loader)
    assert len(passes) == 1
    inputs = torch.as_tensor(data.inputs)
    assert inputs[:, 0].long().tolist() == data.labels.tolist()
    assert sorted(data.labels.tolist()) == list(range(50))
    # Another pass would be another order, and the digest says which one was seen.
    assert read(loader).digest != data.digest


def test_what_happens_to_the_users_tensors_later_does_not_reach_the_data() -> None:
    images, labels = IMAGES.clone(), LABELS.clone()
    data = read((images, labels))
    images.zero_()
    labels.zero_()
    assert torch.equal(torch.as_tensor(data.inputs), IMAGES)
    assert torch.equal(data.labels, LABELS)


def test_the_digest_sees_every_change() -> None:
    brighter = IMAGES.clone()
    brighter[3, 0, 2, 1] += 1e-3
    relabelled = LABELS.clone()
    relabelled[0] = 1
    digests = [
        read(value).digest
        for value in (
            (IMAGES, LABELS),
            (brighter, LABELS),
            (IMAGES, relabelled),
            (IMAGES.flip(0), LABELS.flip(0)),
            (IMAGES.reshape(6, 1, 2, 8), LABELS),
            (["ab", "c"], [0, 1]),
            (["a", "bc"], [0, 1]),
            (["ab", "c"], [1, 0]),
        )
    ]
    assert len(set(digests)) == len(digests)
    # The digest of a report has to mean the same on every machine and with every version.
    expected = "c3e49b8311335ed4"
    assert read((torch.tensor([[0.5], [0.25]]), [0, 1])).digest.startswith(expected)


def broken(place: int, value: float) -> torch.Tensor:
    images = IMAGES.clone()
    images[place, 0, 0, 0] = value
    return images


def endless() -> Iterator[Any]:
    yield (IMAGES[:4], LABELS[:3])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((IMAGES, LABELS[:5]), "6 inputs and 5 labels"),
        (endless(), "batch 0 has 4 inputs and 3 labels"),
        ((IMAGES[:0], LABELS[:0]), "no samples"),
        ([], "no samples"),
        (([], []), "no samples"),
        ((IMAGES, LABELS.float()), "whole class indices"),
        ((IMAGES, LABELS.bool()), "whole class indices"),
        ((IMAGES, [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]), "0.0"),
        ((IMAGES, [True] * 6), "True"),
        ((["good", "bad"], ["1", "0"]), "'1'"),
        ((IMAGES, LABELS - 1), "-1 among them"),
        ((IMAGES, torch.nn.functional.one_hot(LABELS)), "not \\(samples,\\)"),
        ((broken(4, float("nan")), LABELS), "1 of 6 inputs hold NaN.*input 4"),
        ((broken(2, float("inf")), LABELS), "input 2"),
        (((IMAGES * 255).to(torch.uint8), LABELS), "inputs are uint8.*/ 255"),
        ((["good", IMAGES[0]], [0, 1]), "input 1 is of another kind"),
        (([IMAGES[0], "good"], [0, 1]), "input 1 is of another kind"),
        (([IMAGES[0], IMAGES[0, 0]], [0, 1]), "same shape"),
        ({"x": IMAGES, "y": LABELS}, "the mapping has"),
        (IMAGES, "this is Tensor"),
        ("good", "this is str"),
        (7, "this is int"),
        ([IMAGES, IMAGES, IMAGES], "item 0 is no pair"),
        ((IMAGES, 3), "int"),
    ],
)
def test_what_is_no_evaluation_data_is_refused_with_its_source(value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^the fixture: .*{said}"):
        read(value)


def test_a_file_of_tensors(tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    save_file({"inputs": IMAGES, "labels": LABELS}, path)
    data = read_evaluation_data(path, "data.safetensors")
    assert data.pinned
    assert data.digest == read((IMAGES, LABELS)).digest
    save_file({"images": IMAGES, "labels": LABELS}, path)
    with pytest.raises(ConfigError, match=r"^data\.safetensors: the file holds images, labels"):
        read_evaluation_data(path, "data.safetensors")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ConfigError, match="not a readable safetensors file"):
        read_evaluation_data(path, "data.safetensors")


def test_a_file_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    # A line separator inside a text is no end of a line.
    texts = [*TEXTS, "one\u2028line"]
    lines = [json.dumps({"text": text, "label": 1}, ensure_ascii=False) for text in texts]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    data = read_evaluation_data(path, "data.jsonl")
    assert data.inputs == tuple(texts)
    assert data.pinned
    assert data.digest == read((texts, [1] * 5)).digest


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[]", "just 'text' and 'label'"),
        ('{"text": "a"}', "just 'text' and 'label'"),
        ('{"text": 1, "label": 1}', "'text' is int"),
        ('{"text": "a", "label": "1"}', "'label' is '1'"),
        ('{"text": "a", "label": -1}', "'label' is -1"),
        ('{"text": "a", "label": true}', "'label' is True"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": 0}\n' + line + "\n")
    with pytest.raises(ConfigError, match=rf"^data\.jsonl:2: .*{said}"):
        read_evaluation_data(path, "data.jsonl")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,0\n")
    with pytest.raises(ConfigError, match=r"not '\.csv'"):
        read_evaluation_data(path, "data.csv")
    (tmp_path / "data.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_evaluation_data(tmp_path / "data.jsonl", "data.jsonl")
