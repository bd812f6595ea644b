"""The pool: nothing loaded twice, memory respected, freed models really gone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.errors import LoadError
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.loaded import LoadedModel
from pytest_compsec.models.loading import load
from pytest_compsec.models.pool import KEEPING, ModelPool, estimated_bytes, free_memory
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint, staged

LESS_PRUNED = make_recipe("prune", method="magnitude", sparsity=0.3)
PRUNED = make_recipe("prune", method="magnitude", sparsity=0.5)


class CountingLoader:
    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.derived: list[str] = []
        self.modules: list[weakref.ref[torch.nn.Module]] = []

    def __call__(self, arm: Arm, *, base: LoadedModel | None = None) -> LoadedModel:
        (self.loaded if base is None else self.derived).append(arm.name)
        model = load(arm, base=base)
        self.modules.append(weakref.ref(model.module))
        return model

    def alive(self) -> int:
        gc.collect()
        return sum(module() is not None for module in self.modules)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("tiny")
    return [make_tiny_checkpoint(root / str(seed), seed=seed) for seed in range(3)]


@pytest.fixture
def loader() -> CountingLoader:
    return CountingLoader()


@pytest.fixture
def pool(loader: CountingLoader) -> Iterator[ModelPool]:
    pool = ModelPool(load=loader, free_bytes=lambda device: 1 << 40)
    yield pool
    pool.close()


def test_the_second_get_of_an_arm_does_not_load(
    pool: ModelPool, loader: CountingLoader, checkpoints: list[Path]
) -> None:
    first, second = pool.get(make_arm(checkpoints[0])), pool.get(make_arm(checkpoints[0]))
    assert first.module is second.module
    assert loader.loaded == ["tiny"]


def test_other_weights_recipe_or_float_type_are_another_model(
    pool: ModelPool, checkpoints: list[Path]
) -> None:
    first, *others = (
        pool.get(arm).module
        for arm in (
            make_arm(checkpoints[0]),
            make_arm(checkpoints[1]),
            make_arm(checkpoints[0], recipe=PRUNED),
            make_arm(checkpoints[0], recipe=LESS_PRUNED),
            make_arm(checkpoints[0], dtype="bfloat16"),
        )
    )
    assert all(other is not first for other in others)
    assert len(pool) == 5


def test_shared_weights_keep_each_models_own_system_prompt(
    pool: ModelPool, loader: CountingLoader, checkpoints: list[Path]
) -> None:
    plain = pool.get(make_arm(checkpoints[0]))
    briefed = pool.get(make_arm(checkpoints[0], system="Be brief."))
    assert (plain.arm.system, briefed.arm.system) == (None, "Be brief.")
    assert len(loader.loaded) == 1


def test_what_does_not_fit_frees_the_least_recently_used_first(
    loader: CountingLoader, checkpoints: list[Path]
) -> None:
    size = estimated_bytes(make_arm(checkpoints[0]), "float32")
    # Room for two models, and plenty for reading one more only when one has gone.
    free = lambda device: int((4.25 - loader.alive()) * size)  # noqa: E731
    pool = ModelPool(load=loader, free_bytes=free)
    arms = [make_arm(path) for path in checkpoints]
    pool.get(arms[0])
    pool.get(arms[1])
    pool.get(arms[0])
    pool.get(arms[2])
    assert len(pool) == 2
    assert loader.alive() == 2
    pool.get(arms[0])
    assert len(loader.loaded) == 3
    pool.get(arms[1])
    assert len(loader.loaded) == 4


def test_one_arm_at_a_time_is_enough(loader: CountingLoader, checkpoints: list[Path]) -> None:
    pool = ModelPool(load=loader, free_bytes=lambda device: 0)
    for _ in range(2):
        for path in checkpoints:
            pool.get(make_arm(path))
            assert loader.alive() == 1
    assert len(loader.loaded) == 6


def test_capacity_bounds_the_number_of_models(
    loader: CountingLoader, checkpoints: list[Path]
) -> None:
    pool = ModelPool(load=loader, free_bytes=lambda device: 1 << 40, capacity=1)
    for path in checkpoints:
        pool.get(make_arm(path))
    assert len(pool) == loader.alive() == 1


def test_close_frees_everything(
    pool: ModelPool, loader: CountingLoader, checkpoints: list[Path]
) -> None:
    pool.get(make_arm(checkpoints[0]))
    pool.get(make_arm(checkpoints[1]))
    pool.close()
    assert len(pool) == loader.alive() == 0


def test_memory_is_free_at_once_also_of_modules_that_refer_to_themselves(
    pool: ModelPool, loader: CountingLoader, checkpoints: list[Path]
) -> None:
    module: Any = pool.get(make_arm(checkpoints[0])).module
    object.__setattr__(module, "itself", module)
    del module
    gc.disable()
    try:
        pool.close()
        assert loader.modules[0]() is None
    finally:
        gc.enable()


def test_a_variant_is_derived_from_the_original_in_memory(
    pool: ModelPool, loader: CountingLoader, checkpoints: list[Path]
) -> None:
    original = pool.get(make_arm(checkpoints[0]))
    before = {name: value.clone() for name, value in original.module.state_dict().items()}
    variant = pool.get(make_arm(checkpoints[0], recipe=PRUNED))
    assert loader.derived == ["tiny-variant"]
    from_files = load(make_arm(checkpoints[0], recipe=PRUNED)).module.state_dict()
    for name, value in variant.module.state_dict().items():
        assert torch.equal(value, from_files[name]), name
    for name, value in original.module.state_dict().items():
        assert torch.equal(value, before[name]), f"the original changed: {name}"


@pytest.mark.parametrize("other", ["weights", "dtype", "adapter", "compressed"])
def test_a_variant_is_never_derived_from_another_model(
    pool: ModelPool, loader: CountingLoader, checkpoints: list[Path], other: str
) -> None:
    bases = {
        "weights": make_arm(checkpoints[1]),
        "dtype": make_arm(checkpoints[0], dtype="float16"),
        "compressed": make_arm(checkpoints[0], recipe=LESS_PRUNED),
        "adapter": make_arm(checkpoints[0]),
    }
    pool.get(bases[other])
    arm = make_arm(checkpoints[0], recipe=PRUNED)
    if other == "adapter":
        arm = make_arm(checkpoints[0], recipe=PRUNED, adapter=staged(checkpoints[1]))
        with pytest.raises(LoadError, match="adapter"):  # It is none: but it was looked at.
            pool.get(arm)
    else:
        pool.get(arm)
    assert loader.derived == []


def test_a_failed_load_leaves_the_pool_usable(
    pool: ModelPool, loader: CountingLoader, checkpoints: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(LoadError):
        pool.get(make_arm(tmp_path))
    assert pool.get(make_arm(checkpoints[0])).arm.name == "tiny"


def test_the_estimate_is_the_dense_size_in_the_runs_type(checkpoints: list[Path]) -> None:
    arm = make_arm(checkpoints[0])
    parameters = sum(p.numel() for p in load(arm).module.parameters())
    assert estimated_bytes(arm, "float32") == 4 * parameters
    assert estimated_bytes(arm, "bfloat16") == 2 * parameters


def test_free_memory_of_this_machine_is_plausible() -> None:
    assert 1 << 20 < free_memory("cpu") < 1 << 50


def test_two_arms_fit_together_only_where_memory_holds_both(checkpoints: list[Path]) -> None:
    first, second = (make_arm(path) for path in checkpoints[:2])
    need = KEEPING * estimated_bytes(first, "float32")
    roomy = ModelPool(free_bytes=lambda device: int(2 * need) + 1)
    tight = ModelPool(free_bytes=lambda device: int(2 * need) - 1)
    assert roomy.fits_together(first, second)
    assert not tight.fits_together(first, second)
    assert tight.fits_together(first)
    assert not ModelPool(free_bytes=lambda device: 1 << 40, capacity=1).fits_together(first, second)


def test_an_arm_that_is_loaded_needs_no_more_room(checkpoints: list[Path]) -> None:
    first, second = (make_arm(path) for path in checkpoints[:2])
    need = KEEPING * estimated_bytes(first, "float32")
    free = [1 << 40]
    pool = ModelPool(free_bytes=lambda device: free[0])
    pool.get(first)
    free[0] = int(need) + 1
    assert pool.fits_together(first, second)
    pool.close()
    assert not pool.fits_together(first, second)
