"""lm-evaluation-harness (Gao et al., EleutherAI): its ``hf`` model on a task file of our own.

``batch_size="auto"`` finds the largest batch by running five passes of full length; the harness
does so in every call. Here it is done once for each arm and timed apart, and the ratios do not
count it. ``max_length`` is set to what the prompts need: left at the model's own (8,192 positions
here) the search passes 64 x 8,192 tokens at a time, which a CPU does not finish. Nothing is
downloaded: prompts and task file lie in a temporary directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare.demo import Demo
from bench.compare.ways import ARMS, Answered, Turn, prompt_lengths
from bench.cost.work import Row

TASK = "compsec_bench_prompts"
HOW_TO_INSTALL = """\
lm-evaluation-harness is not installed in this Python, so its rows are LEFT OUT.
Beside the environment of `make install`, in one of its own (Python of the same version):
    python -m venv .venv-lm-eval
    realpath .venv/lib/python3*/site-packages > \\
        "$(echo .venv-lm-eval/lib/python3*/site-packages)/main.pth"
    .venv-lm-eval/bin/pip install -c constraints.txt lm_eval
    .venv-lm-eval/bin/python -m bench.compare ..."""


def is_installed() -> bool:
    """Whether the harness and what its tasks need are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("lm_eval", "datasets"))


@dataclasses.dataclass
class Harness:
    """Both arms behind the harness' ``hf`` model, one after the other."""

    key: str
    title: str
    dtype: str
    new_tokens: int
    demo: Demo
    prompts: Sequence[str]
    folder: Path
    largest_batch: int = 64

    def __post_init__(self) -> None:
        self._models: dict[str, _TimedModel] = {}
        self._lengths: list[int] = []
        self._manager: Any = None

    def prepare(self) -> None:
        """Write the task file, wrap the modules, find the batch size."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("HF_DATASETS_CACHE", str(self.folder / "datasets"))
        original = self.demo.arm("original", self.dtype)
        self._lengths = prompt_lengths(original, self.prompts)
        directory = _write_task(self.folder / self.key, self.prompts, self.new_tokens)
        tasks = importlib.import_module("lm_eval.tasks")
        self._manager = tasks.TaskManager(include_path=str(directory), include_defaults=False)
        longest = max(self._lengths) + self.new_tokens
        for arm in ARMS:
            model = self.demo.arm(arm, self.dtype)
            with contextlib.redirect_stdout(sys.stderr):
                self._models[arm] = _TimedModel(model, longest, self.largest_batch)

    def turn(self) -> Turn:
        evaluator = importlib.import_module("lm_eval.evaluator")
        answered = []
        seconds = around = detecting = 0.0
        for arm in ARMS:
            timed = self._models[arm]
            started = time.perf_counter()
            with contextlib.redirect_stdout(sys.stderr):  # it prints what it does
                results = evaluator.simple_evaluate(
                    model=timed.model,
                    tasks=[TASK],
                    task_manager=self._manager,
                    apply_chat_template=True,
                    bootstrap_iters=0,
                    log_samples=True,
                )
            around += time.perf_counter() - started - timed.generating
            seconds += timed.generating
            detecting += timed.detecting
            samples = sorted(results["samples"][TASK], key=lambda sample: sample["doc_id"])
            texts = tuple(str(sample["resps"][0][0]).strip() for sample in samples)
            answered.append(Answered(arm, texts, self._batches(timed, texts), rows_leave=False))
        beside = {"finding the batch size, once": detecting, "the evaluation around": around}
        return Turn(seconds, tuple(answered), beside=beside)

    def _batches(self, timed: _TimedModel, texts: Sequence[str]) -> tuple[tuple[Row, ...], ...]:
        """Longest first, as the harness sorts; an answer's tokens are those of its text and the
        one that ended it."""
        tokenizer = timed.tokenizer
        rows = []
        for length, text in zip(self._lengths, texts, strict=True):
            tokens = 1 + len(tokenizer.encode(text, add_special_tokens=False))
            rows.append(Row(length, min(tokens, self.new_tokens)))
        rows.sort(key=lambda row: -row.prompt_tokens)
        size = timed.batch_size or len(rows)
        return tuple(tuple(rows[at : at + size]) for at in range(0, len(rows), size))


class _TimedModel:
    """The harness' model around a loaded module, with a clock on what it does."""

    def __init__(self, loaded: Any, longest: int, largest_batch: int) -> None:
        huggingface = importlib.import_module("lm_eval.models.huggingface")
        self.tokenizer = loaded.tokenizer
        self.model = huggingface.HFLM(
            pretrained=loaded.module,
            tokenizer=loaded.tokenizer,
            batch_size="auto",
            max_batch_size=largest_batch,
            max_length=longest,
            device=loaded.device,
        )
        self.generating = 0.0
        started = time.perf_counter()
        self.batch_size = int(self.model._detect_batch_size())
        self.detecting = time.perf_counter() - started
        generate = self.model.generate_until

        def timed(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return generate(*arguments, **named)
            finally:
                self.generating = time.perf_counter() - begun

        self.model._detect_batch_size = lambda *_, **__: self.batch_size
        self.model.generate_until = timed


def _write_task(folder: Path, prompts: Sequence[str], new_tokens: int) -> Path:
    """A task of one prompt a line and no metric. Returns the directory to include."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "prompts.jsonl"
    lines = [json.dumps({"prompt": prompt}) for prompt in prompts]
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": new_tokens},
        "metric_list": [{"metric": "bypass"}],
    }
    # Every JSON document is a YAML document.
    (folder / "task.yaml").write_text(json.dumps(task, indent=1), encoding="utf-8")
    return folder
