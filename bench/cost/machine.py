"""This machine's matrix rate and memory bandwidth, and how far measured runs are from its floor.

    python -m bench.cost.machine
    python -m bench.cost.machine --paths results.json --markdown floor.md

``results.json`` is what ``python -m bench.compare --json`` writes. Rates are medians over
``--repeats`` of matrix products in the shapes of the model: ``tokens x hidden`` times
``hidden x intermediate``. The floor takes the best rate of each float type. Bandwidth: the better
of a product of a matrix with one vector, which reads the matrix once, as decoding one prompt does,
and a copy, which reads and writes; both on ``--megabytes`` of memory, far more than the caches
hold. Run from the repository root, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.cost.paths import Measured, floor_table, read_paths
from bench.cost.shapes import PUBLISHED, ModelShape

FLOAT_TYPES = ("float32", "bfloat16")
#: Tokens in a product: a prefill of a batch, a decoding step of a batch, one prompt's step.
TOKENS = (2048, 64, 1)


@dataclasses.dataclass(frozen=True)
class Rates:
    """``products[float type][tokens]`` in operations per second, ``bandwidths`` in bytes per
    second by how they were measured."""

    products: dict[str, dict[int, float]]
    bandwidths: dict[str, float]

    def measured(self) -> Measured:
        best = {name: max(of_tokens.values()) for name, of_tokens in self.products.items()}
        return Measured(best, max(self.bandwidths.values()))


def measure(shape: ModelShape, device: str, repeats: int, megabytes: int) -> Rates:
    """Both, on ``device`` with as many threads as torch was given."""
    products = {
        name: {
            tokens: _matrix_rate(shape, tokens, getattr(torch, name), device, repeats)
            for tokens in TOKENS
        }
        for name in FLOAT_TYPES
    }
    return Rates(products, _bandwidths(device, repeats, megabytes))


def _matrix_rate(
    shape: ModelShape, tokens: int, kind: torch.dtype, device: str, repeats: int
) -> float:
    left = torch.rand(tokens, shape.hidden, device=device).to(kind)
    right = torch.rand(shape.intermediate, shape.hidden, device=device).to(kind)
    operations = 2.0 * tokens * shape.hidden * shape.intermediate
    # Long enough for the clock: some 50 milliseconds at a hundred billion operations a second.
    calls = max(1, int(5e9 / operations))

    def product() -> None:
        for _ in range(calls):
            torch.nn.functional.linear(left, right)

    return calls * operations / _median_seconds(product, device, repeats)


def _bandwidths(device: str, repeats: int, megabytes: int) -> dict[str, float]:
    width = 4096
    height = megabytes * 1_000_000 // (4 * width)
    matrix = torch.rand(height, width, device=device)
    vector = torch.rand(width, device=device)
    target = torch.empty_like(matrix)
    read = matrix.numel() * matrix.element_size()
    return {
        "matrix times vector": read / _median_seconds(lambda: matrix @ vector, device, repeats),
        "copy": 2 * read / _median_seconds(lambda: target.copy_(matrix), device, repeats),
    }


def _median_seconds(call: Callable[[], object], device: str, repeats: int) -> float:
    call()  # threads, code and pages are there before the clock runs
    seconds = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        call()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _describe(rates: Rates, repeats: int) -> list[str]:
    lines = [
        f"medians of {repeats}; {torch.get_num_threads()} threads, torch {torch.__version__}",
        "",
        "| tokens in the product | " + " | ".join(rates.products) + " |",
        "|" + " --- |" * (1 + len(rates.products)),
    ]
    for tokens in TOKENS:
        found = [f"{rates.products[name][tokens] / 1e9:,.0f} GFLOP/s" for name in rates.products]
        lines.append(f"| {tokens} | " + " | ".join(found) + " |")
    lines.append("")
    lines += [f"{name}: {value / 1e9:,.1f} GB/s" for name, value in rates.bandwidths.items()]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    paths = None if options.paths is None else read_paths(options.paths)
    with torch.inference_mode():
        shape = PUBLISHED[options.model] if paths is None else paths.shape
        rates = measure(shape, device, options.repeats, options.megabytes)
    lines = _describe(rates, options.repeats)
    if paths is not None:
        lines += ["", *floor_table(paths, rates.measured())]
    print(*lines, sep="\n")
    if options.markdown is not None:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if options.json is not None:
        text = json.dumps(dataclasses.asdict(rates), indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--model", choices=tuple(PUBLISHED), default="SmolLM2-135M")
    parser.add_argument("--paths", type=Path, help="results of bench.compare")
    parser.add_argument("--repeats", type=int, default=9, help="of each timing (default 9)")
    parser.add_argument("--megabytes", type=int, default=512, help="for bandwidth (default 512)")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--device", help="default: cuda when there is one, else cpu")
    parser.add_argument("--json", type=Path, help="write the rates here")
    parser.add_argument("--markdown", type=Path, help="write what is printed here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
