"""What a comparison of two arms costs on named GPUs, from the cost model alone.

    python -m bench.cost.table
    python -m bench.cost.table --prompts 480 --new-tokens 256 --batch 128

Nothing here is measured: the peaks are the vendor's (``gpus.py``), and ``--compute`` and
``--memory`` are the shares of them that are assumed to be reached. Several GPUs are taken to share
every step evenly, with nothing lost between them. Run from the repository root.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence

from bench.cost.gpus import GPUS, Gpu
from bench.cost.roofline import Floor, floor_of
from bench.cost.shapes import PUBLISHED, ModelShape
from bench.cost.work import BFLOAT16, INT4, Precision, Steps, run_steps, total, uniform_batches

MODELS = ("Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.1-405B")
FORMS = (BFLOAT16, INT4)
#: What is left of a GPU's memory for weights and cache (the default of vLLM's
#: ``--gpu-memory-utilization`` is of this order).
USABLE = 0.9


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is asked, and the shares of the peaks that are assumed."""

    prompts: int
    prompt_tokens: int
    new_tokens: int
    batch: int
    compute: float
    memory: float

    def steps(self, shape: ModelShape, precision: Precision) -> Steps:
        batches = uniform_batches(self.prompts, self.prompt_tokens, self.new_tokens, self.batch)
        return run_steps(shape, batches, precision)


@dataclasses.dataclass(frozen=True)
class ArmCost:
    """One arm on ``count`` GPUs; times in seconds, sizes in bytes."""

    weights: float
    cache: float
    count: int
    operations: float
    moved: float
    prefill: Floor
    decode: Floor

    @property
    def seconds(self) -> float:
        return self.prefill.seconds + self.decode.seconds

    @property
    def gpu_minutes(self) -> float:
        return self.seconds * self.count / 60


def weight_bytes(shape: ModelShape, precision: Precision) -> float:
    """Bytes of the model at rest: packed layers, and the embedding (and head) beside them."""
    rest = shape.parameters - shape.layer_matrices
    return (shape.layer_matrices * precision.layer + rest * precision.head) / 8


def cache_bytes(shape: ModelShape, plan: Plan, precision: Precision) -> float:
    """Bytes of the key-value cache of one full batch at its end."""
    tokens = min(plan.batch, plan.prompts) * (plan.prompt_tokens + plan.new_tokens)
    return tokens * shape.cache_elements * precision.state / 8


def least_gpus(needed: float, gpu: Gpu) -> int:
    """The least power of two that holds ``needed`` bytes: tensor parallelism divides heads."""
    return int(2 ** max(0, math.ceil(math.log2(needed / (USABLE * gpu.memory)))))


def arm_cost(shape: ModelShape, precision: Precision, plan: Plan, gpu: Gpu) -> ArmCost:
    """What one arm costs on the least number of these GPUs that holds it."""
    weights, cache = weight_bytes(shape, precision), cache_bytes(shape, plan, precision)
    count = least_gpus(weights + cache, gpu)
    machine = gpu.machine.scaled(plan.compute, plan.memory).times(count)
    steps = plan.steps(shape, precision)
    whole = total(steps.all)
    return ArmCost(
        weights,
        cache,
        count,
        whole.operations,
        whole.bytes,
        floor_of(steps.prefill, machine),
        floor_of(steps.decode, machine),
    )


def table(plan: Plan) -> list[str]:
    """The lines of the Markdown table."""
    lines = [
        "| model | form | weights | on | operations | moved | prefill | decoding "
        "| one arm | GPU minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model in MODELS:
        shape = PUBLISHED[model]
        for precision in FORMS:
            for kind, gpu in GPUS.items():
                cost = arm_cost(shape, precision, plan, gpu)
                lines.append(
                    f"| {model} | {precision.name} | {cost.weights / 1e9:,.0f} GB "
                    f"| {cost.count} x {kind} | {cost.operations / 1e15:,.1f} PFLOP "
                    f"| {cost.moved / 1e12:,.1f} TB | {cost.prefill.seconds:,.1f} s "
                    f"| {cost.decode.seconds:,.1f} s | {cost.seconds:,.1f} s "
                    f"| {cost.gpu_minutes:,.2f} |"
                )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    plan = Plan(**vars(options))
    print(
        f"{plan.prompts} prompts of {plan.prompt_tokens} tokens with their template, "
        f"{plan.new_tokens} new tokens each, batches of {plan.batch}; assumed: "
        f"{100 * plan.compute:g} % of the matrix rate and {100 * plan.memory:g} % of the memory "
        "bandwidth of the data sheet, no loss between GPUs, no loading\n"
    )
    print(*table(plan), sep="\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--prompts", type=int, default=864, help="default 864: the set 'harmful'")
    parser.add_argument("--prompt-tokens", type=int, default=64, help="each (default 64)")
    parser.add_argument("--new-tokens", type=int, default=128, help="each (default 128)")
    parser.add_argument("--batch", type=int, default=256, help="rows (default 256)")
    parser.add_argument("--compute", type=float, default=0.5, help="share (default 0.5)")
    parser.add_argument("--memory", type=float, default=0.7, help="share (default 0.7)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
