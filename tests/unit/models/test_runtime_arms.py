"""An arm in llama.cpp among the others: its size, place and identity, and what it refuses to show.

Needs no llama.cpp: what would ask it is replaced, for what it says is not the matter here.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.checks.derived_from_original import check_derived_from_original
from pytest_compsec.checks.layers_within import check_layers_within
from pytest_compsec.config.judges import GenerativeOptions
from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.judges.generative import GenerativeJudge
from pytest_compsec.judges.replies import Questioner
from pytest_compsec.localization.heads import identify_safety_critical_heads
from pytest_compsec.models import llama_cpp
from pytest_compsec.models.arm import Arm, Runtime
from pytest_compsec.models.devices import placement
from pytest_compsec.models.identity import generation_identity
from pytest_compsec.models.llama_cpp import LlamaCppModel
from pytest_compsec.models.loaded import LoadedModel, TransformersModel
from pytest_compsec.models.loading import can_derive
from pytest_compsec.models.pool import ModelPool, estimated_bytes
from pytest_compsec.models.weights import WeightReport
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.tiny_model import make_arm, make_recipe, make_tokenizer, staged

SIZE = 1000
RUNTIME = Runtime("llama-cpp", {"llama-cpp-python": "0.3.16"})


@pytest.fixture(autouse=True)
def processor(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What llama.cpp says of itself and where it runs; tests change it."""
    facts = {"runtime": "llama-cpp", "processor": "AVX2 = 1"}
    monkeypatch.setattr(llama_cpp, "runtime_facts", lambda arm: facts)
    monkeypatch.setattr(llama_cpp, "runtime_device", lambda arm: "cpu")
    return facts


@pytest.fixture
def deployed(tmp_path: Path) -> Arm:
    (tmp_path / "m.gguf").write_bytes(bytes(SIZE))
    files = staged(tmp_path, entry="m.gguf")
    return make_arm(tmp_path, files=files, variant="deployed", runtime=RUNTIME)


def in_llama_cpp(arm: Arm) -> LlamaCppModel:
    engine: Any = None
    return LlamaCppModel(arm, engine, make_tokenizer(), "cpu", "float32", WeightReport(()))


def unpacked(arm: Arm) -> Arm:
    return dataclasses.replace(arm, runtime=None)


# Memory


def test_blocks_stay_as_they_are_stored(deployed: Arm) -> None:
    assert estimated_bytes(deployed, "float32") == SIZE
    assert estimated_bytes(unpacked(deployed), "float32") > 4 * SIZE


def test_memory_for_the_file_is_enough(deployed: Arm) -> None:
    pool = ModelPool(free_bytes=lambda device: 3 * SIZE)
    assert pool.fits_together(deployed)
    assert not pool.fits_together(unpacked(deployed))


def test_one_file_in_two_runtimes_is_two_models(deployed: Arm) -> None:
    def load(arm: Arm, *, base: LoadedModel | None = None) -> LoadedModel:
        loaded.append(arm)
        if arm.runtime is not None:
            return in_llama_cpp(arm)
        module: Any = None
        return TransformersModel(
            arm, module, make_tokenizer(), "cpu", "float32", WeightReport(())
        )  # fmt: skip

    loaded: list[Arm] = []
    pool = ModelPool(load=load, free_bytes=lambda device: 1 << 40)
    first, second = pool.get(deployed), pool.get(unpacked(deployed))
    assert isinstance(first, LlamaCppModel)
    assert isinstance(second, TransformersModel)
    briefed = pool.get(dataclasses.replace(deployed, system="Be brief."))
    assert isinstance(briefed, LlamaCppModel)
    assert briefed.arm.system == "Be brief."
    assert len(loaded) == 2
    pool.close()


def test_nothing_is_derived_from_a_model_without_a_module(deployed: Arm) -> None:
    recipe = make_recipe("prune", method="magnitude", sparsity=0.5)
    for runtime in (None, RUNTIME):
        arm = dataclasses.replace(deployed, recipe=recipe, runtime=runtime)
        assert not can_derive(arm, in_llama_cpp(deployed))


# Identity


def test_the_runtime_says_where_and_in_what_type(
    deployed: Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "runtime_device", lambda arm: "cuda:3")
    arm = dataclasses.replace(deployed, dtype="bfloat16")
    assert placement(arm) == ("cuda:3", "float32")
    assert placement(dataclasses.replace(unpacked(arm), device="cpu")) == ("cpu", "bfloat16")


def test_answers_of_one_runtime_are_never_the_others(
    deployed: Arm, processor: dict[str, str]
) -> None:
    def identity(arm: Arm) -> str:
        settings = GenerationSettings()
        return generation_identity(arm, device="cpu", dtype="float32", settings=settings)

    other_version = dataclasses.replace(
        deployed, runtime=Runtime("llama-cpp", {"llama-cpp-python": "0.3.17"})
    )
    arms = (deployed, unpacked(deployed), other_version)
    assert len({identity(arm) for arm in arms}) == 3
    before = [identity(arm) for arm in arms]
    processor["processor"] = "AVX2 = 1 | AVX512 = 1"
    after = [identity(arm) for arm in arms]
    assert before[0] != after[0]
    assert before[1] == after[1], "what llama.cpp found here says nothing of torch"


# Looking inside

CANNOT = "tiny-deployed runs in llama.cpp, which does not show its layers"


class Pair:
    """An original whose module nobody reaches, and a compressed form in llama.cpp."""

    id = "tiny-deployed"
    lock_digest = "f" * 64

    def __init__(self, arm: Arm) -> None:
        import torch

        module = torch.nn.Linear(2, 2)
        original = dataclasses.replace(unpacked(arm), variant=None)
        self.original = TransformersModel(
            original, module, make_tokenizer(), "cpu", "float32", WeightReport(())
        )
        self.compressed = in_llama_cpp(arm)
        self.original_arm, self.compressed_arm = original, arm

    def recheck(self) -> None:
        pass


@pytest.mark.parametrize("check", [check_layers_within, check_derived_from_original])
def test_a_check_of_weights_is_not_measured(check: Any, deployed: Arm) -> None:
    result: CheckResult = check(Pair(deployed))
    assert result.verdict is Verdict.NOT_MEASURED
    assert CANNOT in result.summary
    assert "without 'runtime'" in result.summary
    assert "variants=" in result.next_step


def test_the_module_itself_is_an_error_in_plain_words(deployed: Arm) -> None:
    with pytest.raises(MeasurementError, match=CANNOT):
        _ = in_llama_cpp(deployed).module
    with pytest.raises(MeasurementError, match=CANNOT):
        identify_safety_critical_heads(in_llama_cpp(deployed), ["p"] * 16)


def test_a_judge_needs_a_module(deployed: Arm) -> None:
    judge = GenerativeJudge(
        GenerativeOptions.model_construct(
            refusal_when="refused", max_new_tokens=4, template="{{ response }}"
        ),
        deployed,
        questioner=Questioner("{{ response }}"),
        load=in_llama_cpp,
        digest="0" * 64,
    )
    with pytest.raises(MeasurementError, match=CANNOT):
        judge.refusals(["p"], ["I will not."])
