"""The cost model of ``bench/cost``: parameter counts that are known, and torch's own count of
floating-point operations on a model that is really run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from bench.cost.gpus import GPUS
from bench.cost.paths import Measured, floor_table, read_paths
from bench.cost.roofline import Machine, floor_of
from bench.cost.shapes import PUBLISHED, ModelShape, shape_of
from bench.cost.table import Plan, arm_cost, least_gpus, weight_bytes
from bench.cost.work import (
    BFLOAT16,
    FLOAT32,
    INT4,
    Row,
    batch_steps,
    pairs_of,
    run_steps,
    step_work,
    total,
    uniform_batches,
    verify_steps,
)

# The number of parameters that the published safetensors files hold.
KNOWN_PARAMETERS = {
    "SmolLM2-135M": 134_515_008,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.1-70B": 70_553_706_496,
    "Llama-3.1-405B": 405_853_388_800,
}


@pytest.fixture(scope="module")
def config() -> Any:
    make: Any = LlamaConfig  # its constructor does not name every key
    return make(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        # The counter knows no formula for the fused attention of CPUs; this one is two products.
        attn_implementation="eager",
    )


@pytest.fixture(scope="module")
def module(config: Any) -> Any:
    make: Any = LlamaForCausalLM  # its methods have no types
    return make(config).eval()


@pytest.fixture(scope="module")
def shape(config: Any) -> ModelShape:
    return shape_of(config.to_dict(), "tiny")


def counted(module: Any, ids: torch.Tensor, **inputs: Any) -> tuple[int, Any]:
    """torch's count of one forward pass, and what the module gave."""
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        output = module(input_ids=ids, use_cache=True, **inputs)
    return counter.get_total_flops(), output


@pytest.mark.parametrize("name", KNOWN_PARAMETERS)
def test_published_shapes_have_the_known_number_of_parameters(name: str) -> None:
    assert PUBLISHED[name].parameters == KNOWN_PARAMETERS[name]


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_library(config: Any, tied: bool) -> None:
    values = {**config.to_dict(), "tie_word_embeddings": tied}
    made = LlamaForCausalLM(LlamaConfig(**values))
    assert shape_of(values).parameters == sum(own.numel() for own in made.parameters())


def test_prefill_costs_what_torch_counts(module: Any, shape: ModelShape) -> None:
    """The library computes the whole square of attention scores, and logits for all positions."""
    found, _ = counted(module, torch.ones(3, 11, dtype=torch.long))
    assert found == step_work(shape, [(11, 0)] * 3, FLOAT32, causal=False, logits=3 * 11).operations


def test_decoding_step_costs_what_torch_counts(module: Any, shape: ModelShape) -> None:
    cache = DynamicCache(config=module.config)
    _, output = counted(module, torch.ones(5, 7, dtype=torch.long), past_key_values=cache)
    found, _ = counted(
        module, torch.ones(5, 1, dtype=torch.long), past_key_values=output.past_key_values
    )
    assert found == step_work(shape, [(1, 7)] * 5, FLOAT32).operations


def test_a_wrong_size_is_noticed_by_the_count(module: Any, config: Any) -> None:
    """The comparison with torch is exact, so that one head too many cannot hide in a tolerance."""
    wrong = shape_of({**config.to_dict(), "num_key_value_heads": 4})
    found, _ = counted(module, torch.ones(3, 11, dtype=torch.long))
    assert found != step_work(wrong, [(11, 0)] * 3, FLOAT32, causal=False, logits=3 * 11).operations


def test_half_of_the_square_of_scores_is_needed() -> None:
    assert pairs_of(4, 0) == 1 + 2 + 3 + 4
    assert pairs_of(4, 0, causal=False) == 16
    assert pairs_of(1, 9) == pairs_of(1, 9, causal=False) == 10


def test_weights_are_read_once_a_step_whatever_the_batch(shape: ModelShape) -> None:
    one, many = (step_work(shape, [(1, 5)] * rows, FLOAT32) for rows in (1, 64))
    assert many.weight_bytes == one.weight_bytes
    assert many.weight_bytes == 4 * (shape.layer_matrices + shape.head_matrix)
    assert many.cache_bytes == 64 * one.cache_bytes
    assert many.operations == 64 * one.operations


def test_quantization_packs_layers_and_leaves_the_head(shape: ModelShape) -> None:
    packed, full = (step_work(shape, [(1, 5)], form) for form in (INT4, BFLOAT16))
    saved = full.weight_bytes - packed.weight_bytes
    assert saved == pytest.approx(shape.layer_matrices * (16 - 4.15625) / 8)
    assert packed.operations == full.operations
    assert packed.cache_bytes == full.cache_bytes


def test_a_row_that_has_finished_costs_nothing_unless_it_is_computed_along(
    shape: ModelShape,
) -> None:
    rows = [Row(6, 2), Row(6, 10)]
    leaving = batch_steps(shape, rows, FLOAT32)
    staying = batch_steps(shape, rows, FLOAT32, rows_leave=False)
    assert len(leaving.decode) == len(staying.decode) == 9  # the prefill gives the first token
    assert leaving.decode[0] == staying.decode[0]
    assert leaving.decode[1:] == batch_steps(shape, rows[1:], FLOAT32).decode[1:]
    assert 1.9 * leaving.decode[-1].operations < staying.decode[-1].operations
    assert total(leaving.all).operations < total(staying.all).operations


def test_padding_is_counted_where_it_is_computed(shape: ModelShape) -> None:
    rows = [Row(4, 1), Row(40, 1)]
    padded = batch_steps(shape, rows, FLOAT32, rows_leave=False)
    assert padded == batch_steps(shape, [Row(40, 1)] * 2, FLOAT32)


def test_rows_without_new_tokens_cost_nothing(shape: ModelShape) -> None:
    assert batch_steps(shape, [Row(9, 0)], FLOAT32).all == ()
    assert verify_steps(shape, [Row(9, 0)], FLOAT32).all == ()


def test_batching_saves_bytes_and_no_operations(shape: ModelShape) -> None:
    alone, together = (
        total(run_steps(shape, uniform_batches(32, 8, 6, batch), FLOAT32).all) for batch in (1, 32)
    )
    assert together.operations == alone.operations
    assert together.weight_bytes == alone.weight_bytes / 32


def test_batches_hold_every_prompt_once() -> None:
    assert [len(batch) for batch in uniform_batches(10, 8, 6, 4)] == [4, 4, 2]
    with pytest.raises(ValueError, match="at least one row"):
        uniform_batches(10, 8, 6, 0)


def test_checking_a_draft_reads_the_weights_once(shape: ModelShape) -> None:
    rows = [Row(8, 12)] * 4
    decoded, checked = batch_steps(shape, rows, FLOAT32), verify_steps(shape, rows, FLOAT32)
    assert total(decoded.all).weight_bytes == 12 * total(checked.all).weight_bytes
    # The same tokens pass the same matrices and look back on the same positions.
    assert total(checked.all).operations == total(decoded.all).operations


def test_the_floor_of_a_step_is_the_longer_of_both_times(shape: ModelShape) -> None:
    work = step_work(shape, [(1, 5)], FLOAT32)
    slow_memory = Machine("slow memory", rate=1e12, bandwidth=1e6)
    slow_products = Machine("slow products", rate=1e3, bandwidth=1e12)
    assert floor_of([work], slow_memory).seconds == work.bytes / 1e6
    assert floor_of([work], slow_memory).bound_by == "memory"
    assert floor_of([work] * 2, slow_products).seconds == 2 * work.operations / 1e3
    assert floor_of([work], slow_products).bound_by == "compute"


def test_steps_that_wait_for_each_other_add_up_step_by_step(shape: ModelShape) -> None:
    """A prefill bound by products and a decoding step bound by memory: the floor is more than
    either total, which a machine that overlapped all steps could reach."""
    prefill = step_work(shape, [(60, 0)] * 64, FLOAT32)
    decode = step_work(shape, [(1, 60)], FLOAT32)
    machine = Machine("balanced", rate=1e10, bandwidth=1e9)
    floor = floor_of([prefill, decode], machine)
    assert floor.seconds == prefill.operations / 1e10 + decode.bytes / 1e9
    assert floor.seconds > max(floor.compute, floor.memory)


@pytest.mark.parametrize("missing", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_config_without_a_size_is_refused(config: Any, missing: str) -> None:
    values = {key: value for key, value in config.to_dict().items() if key != missing}
    with pytest.raises(ValueError, match=missing):
        shape_of(values, "tiny")


@pytest.mark.parametrize(("key", "value"), [("num_local_experts", 8), ("attention_bias", True)])
def test_a_config_of_another_kind_is_refused(config: Any, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        shape_of({**config.to_dict(), key: value}, "tiny")


def test_old_configs_without_shared_heads_count_all_of_them(config: Any) -> None:
    values = {**config.to_dict(), "num_key_value_heads": None, "head_dim": None}
    assert shape_of(values).kv_heads == 4
    assert shape_of(values).head_dim == 8


def test_as_many_gpus_as_hold_the_model() -> None:
    assert least_gpus(70e9, GPUS["A100"]) == 1
    assert least_gpus(73e9, GPUS["A100"]) == 2
    assert least_gpus(150e9, GPUS["A100"]) == 4  # three do not share 64 heads
    assert weight_bytes(PUBLISHED["Llama-3.1-70B"], BFLOAT16) == 2 * 70_553_706_496


def test_a_larger_model_and_lower_shares_cost_more() -> None:
    plan = Plan(64, 32, 16, 32, compute=1.0, memory=1.0)
    gpu = GPUS["H200"]
    small = arm_cost(PUBLISHED["Llama-3.1-8B"], BFLOAT16, plan, gpu)
    large = arm_cost(PUBLISHED["Llama-3.1-70B"], BFLOAT16, plan, gpu)
    halved = arm_cost(
        PUBLISHED["Llama-3.1-8B"], BFLOAT16, Plan(64, 32, 16, 32, compute=0.5, memory=0.5), gpu
    )
    assert large.gpu_minutes > small.gpu_minutes
    assert halved.seconds == pytest.approx(2 * small.seconds)


def written(folder: Path, config: Any, **changes: Any) -> Path:
    """A result file of one path: two batches of two prompts in float32, 2 seconds."""
    path = {
        "name": "a loop",
        "seconds": [2.0, 1.0, 3.0],
        "arms": [
            {
                "form": "full",
                "dtype": "float32",
                "rows_leave": False,
                "batches": [[[8, 4], [8, 4]], [[8, 4], [8, 4]]],
            }
        ],
    }
    content = {"model": config.to_dict(), "paths": [path], **changes}
    file = folder / "results.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_a_path_is_set_against_both_floors(tmp_path: Path, config: Any, shape: ModelShape) -> None:
    paths = read_paths(written(tmp_path, config))
    measured = Measured({"float32": 1e9, "bfloat16": 4e9}, bandwidth=1e12)
    (arm,) = paths.paths[0].arms
    own, job = arm.floor(shape, measured), arm.job_floor(shape, measured)
    assert own.compute == pytest.approx(4 * job.compute)  # bfloat16 multiplies 4 times as fast
    assert own.memory > 2 * job.memory  # two batches of twice the bytes
    row = floor_table(paths, measured)[-1]
    assert row.startswith("| a loop | 2.0 |")  # the median
    assert f"{2.0 / own.seconds:.1f}" in row


def test_a_file_that_is_no_result_is_refused(tmp_path: Path, config: Any) -> None:
    with pytest.raises(ValueError, match=r"results\.json is no result"):
        read_paths(written(tmp_path, config, paths=[{"name": "a loop"}]))
