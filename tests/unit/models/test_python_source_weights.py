"""Weights are taken whole, exactly, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_compsec.errors import LoadError
from pytest_compsec.models.python_source.weights import load_weights

State = dict[str, torch.Tensor]


def net() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))


def state() -> State:
    generator = torch.Generator().manual_seed(1)
    return {
        key: torch.rand(value.shape, generator=generator)
        if value.is_floating_point()
        else torch.tensor(7)
        for key, value in net().state_dict().items()
    }


def save(path: Path, tensors: State) -> Path:
    save_file(tensors, path / "w.safetensors")
    return path / "w.safetensors"


def test_every_number_arrives_buffers_too(tmp_path: Path) -> None:
    module, values = net(), state()
    load_weights(module, save(tmp_path, values), "w")
    for key, value in module.state_dict().items():
        assert torch.equal(value, values[key])


FAULTS: dict[str, tuple[Callable[[State], object], str]] = {
    "missing": (lambda s: s.pop("0.bias"), "missing: 0.bias"),
    "extra": (lambda s: s.update(more=torch.ones(1)), "not of this module: more"),
    "shape": (lambda s: s.update({"0.bias": torch.ones(4)}), "0.bias ((4,) instead of (3,))"),
    "kind": (
        lambda s: s.update({"0.bias": torch.ones(3, dtype=torch.int8)}),
        "another kind of number: 0.bias (torch.int8",
    ),
    "float8": (
        lambda s: s.update({"0.bias": torch.ones(3).to(torch.float8_e4m3fn)}),
        "another kind of number: 0.bias (torch.float8",
    ),
    "nan": (lambda s: s["0.weight"][0].fill_(float("nan")), "not finite (NaN or infinite): 0.we"),
    "infinite": (
        lambda s: s["1.running_var"].fill_(float("inf")),
        "not finite (NaN or infinite): 1.running_var",
    ),
    "rounded": (
        lambda s: s.update({"0.bias": torch.full((3,), 0.1, dtype=torch.float64)}),
        "not the same after loading: 0.bias",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, fault: str) -> None:
    plant, said = FAULTS[fault]
    values = state()
    plant(values)
    with pytest.raises(LoadError) as caught:
        load_weights(net(), save(tmp_path, values), "digits.safetensors")
    assert said in str(caught.value)
    assert str(caught.value).startswith("digits.safetensors: ")


def test_all_differences_are_in_one_message(tmp_path: Path) -> None:
    values = state()
    del values["0.bias"]
    values["more"] = torch.ones(1)
    with pytest.raises(LoadError, match=r"(?s)missing: 0\.bias.*not of this module: more"):
        load_weights(net(), save(tmp_path, values), "w")


def tied() -> torch.nn.ModuleDict:
    parts = torch.nn.ModuleDict(
        {"a": torch.nn.Linear(2, 2, bias=False), "b": torch.nn.Linear(2, 2, bias=False)}
    )
    parts["b"].weight = parts["a"].weight
    return parts


@pytest.mark.parametrize("kept", ["a.weight", "b.weight"])
def test_tied_weights_need_one_tensor(tmp_path: Path, kept: str) -> None:
    module = tied()
    load_weights(module, save(tmp_path, {kept: torch.full((2, 2), 5.0)}), "w")
    assert module["a"].weight is module["b"].weight
    assert torch.equal(module.get_parameter("a.weight"), torch.full((2, 2), 5.0))


def test_tied_weights_that_differ_in_the_file_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, {"a.weight": torch.ones(2, 2), "b.weight": torch.zeros(2, 2)})
    with pytest.raises(LoadError, match="share memory differ"):
        load_weights(tied(), path, "w")


def test_a_mask_of_the_module_may_be_infinite(tmp_path: Path) -> None:
    module = torch.nn.Module()
    module.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    load_weights(module, save(tmp_path, {"mask": torch.tensor([0.0, float("-inf")])}), "w")
    with pytest.raises(LoadError, match="not finite"):
        load_weights(module, save(tmp_path, {"mask": torch.tensor([float("-inf"), 0.0])}), "w")


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"no weights at all")
    with pytest.raises(LoadError, match="no readable safetensors file"):
        load_weights(net(), path, "w")
