"""Every Python block that is no file of tests is run, with what its page says is the reader's own:
recordings, images, a data set, two functions, a suite with a tiny model."""

from __future__ import annotations

import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docs.fences import Fence, every_fence
from tests.docs.tiny_project import smaller, trained_model, write_project

BLOCKS = [fence for fence in every_fence("python") if "def test_" not in fence.text]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    smaller(trained_model(folder), folder / "smaller")
    return folder


@pytest.fixture
def suite(trained: Path, tmp_path: Path) -> Path:
    """compsec.yaml of the blocks that open it."""
    from pytest_compsec.cli import main

    shutil.copytree(trained / "trained", tmp_path / "assistant")
    shutil.copytree(trained / "trained", tmp_path / "student-start")
    shutil.copytree(trained / "smaller", tmp_path / "short")
    # So much is lost that the search finds where.
    pruned = {"prune": {"method": "magnitude", "sparsity": 0.9}}
    compressed = {"nf4": pruned, "short": {"source": "./short"}}
    write_project(
        tmp_path,
        {"assistant": {"original": {"source": "./assistant"}, "compressed": compressed}},
        "nf4",
    )
    assert main(["pin", "--config", str(tmp_path / "compsec.yaml")]) == 0
    return tmp_path


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(holds: str, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run the one block that holds a text, and return what it defined."""
    (fence,) = (fence for fence in BLOCKS if holds in fence.text)
    names = {"__name__": "shown", **(given or {})}
    exec(compile(fence.text, str(fence), "exec"), names)
    return names


def recordings() -> None:
    import numpy

    run("np.savez", {"np": numpy, "fixed": numpy.zeros((4, 2)), "random": numpy.ones((4, 2))})
    with numpy.load("probe.npz") as file:
        assert set(file) == {"fixed", "random", "weights_digest"}


def network() -> None:
    import torch

    names = run("class Signs")
    for build in ("build", "build_small"):
        assert names[build]()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def samples() -> None:
    import torch
    from safetensors.torch import load_file

    run('"inputs": images', {"images": torch.zeros(4, 1, 8, 8), "labels": torch.zeros(4).long()})
    assert set(load_file("signs-test.safetensors")) == {"inputs", "labels"}


def fixtures_of_a_project() -> None:
    import torch

    class TestSigns(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
            return torch.zeros(1, 8, 8), number

    mine = types.ModuleType("mydata")
    mine.TestSigns = TestSigns  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mydata", mine)
        names = run("from mydata import")
    loader = names["evaluation_data"].__wrapped__()
    assert [len(labels) for _, labels in loader] == [4]
    from pytest_compsec.config.backdoors import entry_of

    assert entry_of(names["backdoor"].__wrapped__()).kind == "patch"


def own_check() -> None:
    from pytest_compsec.markers import CheckMarker

    def largest_weight_arguments(*, max_weight: float = 1.0) -> float:
        return max_weight

    def measure_largest_weight(pair: Any, arguments: Any, *, test: str = "") -> None: ...

    mine = {"largest_weight_arguments": largest_weight_arguments,
            "measure_largest_weight": measure_largest_weight}  # fmt: skip
    found: Any = run('"largest_weight"', mine)["pytest_compsec_register_checks"](config=None)
    assert isinstance(found, CheckMarker)
    shown: Any = found
    assert shown.arguments is largest_weight_arguments
    assert shown.measure is measure_largest_weight


def schema_of_the_report() -> None:
    import jsonschema

    from tests.unit.reports.json_reports import written

    written(Path("out.json"))
    run("jsonschema.validate")
    Path("out.json").write_text("{}", encoding="utf-8")
    with pytest.raises(jsonschema.ValidationError):
        run("jsonschema.validate")


def prompts_of_the_tutorial() -> None:
    run("prompts.txt")
    lines = Path("prompts.txt").read_text("utf-8").splitlines()
    assert len(set(lines)) == len(lines) >= 64


#: A text of each block that needs no model, and what runs it.
ALONE: dict[str, Callable[[], None]] = {
    "np.savez": recordings,
    "class Signs": network,
    '"inputs": images': samples,
    "from mydata import": fixtures_of_a_project,
    '"largest_weight"': own_check,
    "jsonschema.validate": schema_of_the_report,
    "prompts.txt": prompts_of_the_tutorial,
}
WITH_A_SUITE = ("distill(student", "find_vulnerable_layers(")


def test_every_block_is_run_here() -> None:
    """A block that is new has no test below: it fails here, not silently."""

    def runs(fence: Fence) -> int:
        return sum(holds in fence.text for holds in (*ALONE, *WITH_A_SUITE))

    assert {str(fence): runs(fence) for fence in BLOCKS} == {str(fence): 1 for fence in BLOCKS}
    assert len(BLOCKS) == len(ALONE) + len(WITH_A_SUITE)


@pytest.mark.parametrize("block", ALONE.values(), ids=lambda block: block.__name__)
def test_a_block_with_what_is_the_readers(block: Callable[[], None]) -> None:
    block()


def test_the_block_that_distills(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("distill(student")
    assert "in 200 steps" in capsys.readouterr().out
    assert (suite / "student" / "model.safetensors").is_file()


def test_the_block_that_looks_inside(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("find_vulnerable_layers(")
    assert len(names["heads"].openings.tokens) > 0
    assert names["layers"].recommended(5)
    assert "model.layers." in capsys.readouterr().out
