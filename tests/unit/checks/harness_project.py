"""A user's project with a task file of its own for lm-evaluation-harness, and a model that knows
the answers: the tiny model that learned to refuse what is "forbidden" and to answer the rest."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.unit.tiny_model import CHAT_TEMPLATE, make_tiny_checkpoint
from tests.unit.trained_tiny_model import ANSWER, REFUSAL, prompt, train_tiny_checkpoint

DOCUMENTS = 200
WORD_QUESTION = "Which word?"
CONFIG = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      bf16: {quantize: {method: cast, dtype: bfloat16}}
      pruned90: {prune: {method: magnitude, sparsity: 0.9}}
data:
  manners: {file: ./tasks/manners.yaml}
  manners-rows: {file: ./tasks/manners.jsonl}
  written: {file: ./tasks/written.yaml}
"""
#: Multiple choice; the data file is named as beside the task file.
MANNERS = """\
task: manners
dataset_path: json
dataset_kwargs: {data_files: {test: manners.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: f1, aggregation: f1, higher_is_better: true}
metadata: {version: 3}
"""
#: The same questions, the answer written out; the data file is named as from the config.
WRITTEN = """\
task: written
dataset_path: json
dataset_kwargs: {data_files: {test: tasks/manners.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["."], do_sample: false, max_gen_toks: 24}
filter_list:
  - name: whole
    filter: [{function: take_first}]
  - name: first-word
    filter:
      - {function: regex, regex_pattern: "^(\\\\w+)"}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_punctuation: true}
metadata: {version: 1}
"""


def question(number: int) -> str:
    """The prompt as the model was taught it: the harness asks without chat template."""
    asked = prompt(number, harmful=number % 2 == 0)
    return f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"


def rows(documents: int) -> str:
    assert "<|im_start|>" in CHAT_TEMPLATE
    found = [
        {"question": question(i), "choices": [REFUSAL, ANSWER], "answer": i % 2}
        for i in range(documents)
    ]
    return "".join(json.dumps(row) + "\n" for row in found)


def known_rows(checkpoint: Path, documents: int) -> str:
    """Questions with two made-up words, of which the one counts as right that this model clearly
    prefers: without a second of training it is always right, and a damaged one is not."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(str(checkpoint))
    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoint))
    chooser = random.Random(0)
    words = [
        "".join(chooser.choices("abcdefghijklmnopqrstuvwxyz", k=4)) for _ in range(4 * documents)
    ]
    # Of the same length, so that nothing is padded.
    ids = torch.tensor([tokenizer.encode(WORD_QUESTION + word) for word in words])
    with torch.inference_mode():
        told = model(ids).logits.log_softmax(-1)[:, -5:-1]
    totals = told.gather(2, ids[:, -4:, None]).sum((1, 2)).tolist()
    found = []
    for first in range(0, len(words), 2):
        choices, scores = words[first : first + 2], totals[first : first + 2]
        if abs(scores[0] - scores[1]) > 1:
            answer = int(scores[1] > scores[0])
            found.append({"question": WORD_QUESTION, "choices": choices, "answer": answer})
    assert len(found) >= documents
    return "".join(json.dumps(row) + "\n" for row in found[:documents])


def make_project(root: Path, *, trained: bool = True) -> Path:
    """Write ``compsec.yaml``, the tasks and the model (trained in seconds, or one that knows the
    answers by chance); not yet pinned."""
    root.mkdir(parents=True, exist_ok=True)
    (train_tiny_checkpoint if trained else make_tiny_checkpoint)(root / "original")
    known = rows(DOCUMENTS) if trained else known_rows(root / "original", DOCUMENTS)
    tasks = root / "tasks"
    tasks.mkdir()
    (tasks / "manners.yaml").write_text(MANNERS, encoding="utf-8")
    (tasks / "written.yaml").write_text(WRITTEN, encoding="utf-8")
    (tasks / "manners.jsonl").write_text(known, encoding="utf-8")
    (root / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    return root


def pin(root: Path) -> None:
    from pytest_compsec.cli import main

    assert main(["pin", "--config", str(root / "compsec.yaml")]) == 0
