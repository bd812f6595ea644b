"""Which GPUs hold a model: decided from sizes, tested with faked memory and no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model

from pytest_compsec.errors import LoadError
from pytest_compsec.generation.decoding import generate_answers
from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.models import loading
from pytest_compsec.models.loaded import LoadedModel
from pytest_compsec.models.loading import load
from pytest_compsec.models.spreading import (
    WEIGHTS_SHARE,
    Room,
    device_map,
    estimated_size,
    module_bytes,
    require_room,
    room_for,
    spread,
)
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint

GIB = 2**30
PROMPTS = ("Hello there", "What is the capital of France?", "Name a colour")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model", seed=3)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> LoadedModel:
    return load(make_arm(checkpoint))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((10 + device.index) * GIB, 0))


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("device", [None, "cuda"])
def test_every_visible_gpu_may_take_part(checkpoint: Path, device: str | None) -> None:
    room = room_for(make_arm(checkpoint, device=device), "cuda:0")
    assert room == Room({"cuda:0": 10 * GIB, "cuda:1": 11 * GIB})


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_named_by_number_is_used_alone(checkpoint: Path) -> None:
    assert room_for(make_arm(checkpoint, device="cuda:1"), "cuda:1") is None


@pytest.mark.usefixtures("two_gpus")
def test_neither_a_recipe_nor_the_cpu_is_spread(checkpoint: Path) -> None:
    recipe = make_recipe("prune", method="magnitude", sparsity=0.5)
    assert room_for(make_arm(checkpoint, recipe=recipe), "cuda:0") is None
    assert room_for(make_arm(checkpoint, device="cpu"), "cpu") is None


def test_one_gpu_suffices_only_with_something_to_spare_where_there_are_more() -> None:
    several, alone = Room({"cuda:0": 100, "cuda:1": 100}), Room({"cuda:0": 100})
    assert several.holds(int(100 * WEIGHTS_SHARE))
    assert not several.holds(int(100 * WEIGHTS_SHARE) + 1)
    assert alone.holds(100)
    assert not several.holds_nowhere(2 * int(100 * WEIGHTS_SHARE))
    assert several.holds_nowhere(2 * int(100 * WEIGHTS_SHARE) + 1)


def test_weights_that_fit_nowhere_are_told_with_sizes_and_a_way_out(checkpoint: Path) -> None:
    room = Room({"cuda:0": 10 * GIB, "cuda:1": 12 * GIB})
    with pytest.raises(LoadError) as caught:
        require_room(make_arm(checkpoint), 40 * GIB, room)
    text = str(caught.value)
    assert "tiny: its weights take" in text
    assert "40.00 GiB" in text
    assert "cuda:0 10.00 GiB, cuda:1 12.00 GiB" in text
    assert "'endpoint'" in text
    require_room(make_arm(checkpoint), 18 * GIB, room)


def test_a_worker_with_one_gpu_is_told_how_to_get_all(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")
    with pytest.raises(LoadError, match="-n0"):
        require_room(make_arm(checkpoint), 40 * GIB, Room({"cuda:0": GIB}))


def test_the_estimate_is_what_the_module_takes(checkpoint: Path, model: LoadedModel) -> None:
    arm = make_arm(checkpoint)
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    assert estimated_size(arm, model.dtype) == 4 * parameters
    # Beside the parameters a module has a few small buffers.
    assert 4 * parameters <= module_bytes(model.module) < 1.01 * 4 * parameters


def test_layers_are_divided_in_order_and_never_cut(checkpoint: Path, model: LoadedModel) -> None:
    size = module_bytes(model.module)
    found = device_map(
        make_arm(checkpoint), model.module, {"cuda:0": size * 2 // 3, "cuda:1": size}
    )
    assert list(dict.fromkeys(found.values())) == [0, 1]
    layers = {name for name in found if name.startswith("model.layers.")}
    assert all(name.count(".") == 2 for name in layers)


def test_layers_that_no_gpu_holds_are_refused_and_not_offloaded(
    checkpoint: Path, model: LoadedModel
) -> None:
    size = module_bytes(model.module)
    with pytest.raises(LoadError, match="cannot be divided over the visible GPUs"):
        device_map(make_arm(checkpoint), model.module, {"cuda:0": size // 100, "cuda:1": size // 2})


def test_a_model_that_fits_on_the_first_gpu_goes_there(
    checkpoint: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []

    def to(self: torch.nn.Module, device: str) -> torch.nn.Module:
        moved.append(device)
        return self

    monkeypatch.setattr(torch.nn.Module, "to", to)
    assert spread(make_arm(checkpoint), model.module, Room({"cuda:0": GIB})) is model.module
    assert moved == ["cuda:0"]


def test_loading_spreads_what_one_gpu_does_not_hold(
    checkpoint: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of ``load`` but for the GPUs: those are two parts of main memory."""
    size = module_bytes(model.module)
    room = Room({"cuda:0": size, "cuda:1": size})
    maps: list[dict[str, Any]] = []

    def dispatched(module: torch.nn.Module, device_map: dict[str, Any]) -> torch.nn.Module:
        maps.append(device_map)
        return module

    monkeypatch.setattr("accelerate.dispatch_model", dispatched)
    monkeypatch.setattr(loading, "room_for", lambda arm, device: room)
    loaded = load(make_arm(checkpoint))
    assert set(maps[0].values()) == {0, 1}
    assert _texts(loaded.module, loaded.tokenizer) == _texts(model.module, model.tokenizer)
    monkeypatch.setattr(loading, "room_for", lambda arm, device: Room({"cuda:0": size // 4}))
    with pytest.raises(LoadError, match="not enough free memory"):
        load(make_arm(checkpoint))


def test_a_spread_model_answers_as_a_whole_one(
    checkpoint: Path, model: LoadedModel, tmp_path: Path
) -> None:
    """accelerate's hooks carry inputs and caches between two places; here main memory and disk."""
    other = load(make_arm(checkpoint))
    halves = device_map(
        make_arm(checkpoint),
        other.module,
        {"cuda:0": module_bytes(other.module) * 2 // 3, "cuda:1": module_bytes(other.module)},
    )
    places = {name: "cpu" if place == 0 else "disk" for name, place in halves.items()}
    assert set(places.values()) == {"cpu", "disk"}
    dispatched = dispatch_model(
        other.module, device_map=places, main_device="cpu", offload_dir=tmp_path
    )
    assert any(parameter.device.type == "meta" for parameter in dispatched.parameters())
    assert _texts(dispatched, other.tokenizer) == _texts(model.module, model.tokenizer)


def _texts(module: torch.nn.Module, tokenizer: Any, prompts: Sequence[str] = PROMPTS) -> list[str]:
    settings = GenerationSettings(max_new_tokens=8)
    answers = generate_answers(module, tokenizer, prompts, settings, device="cpu")
    return [answer.text for answer in answers]
