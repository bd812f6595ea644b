"""One prompt at a time through ``module.generate``: the loop of model cards and articles."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import torch

from bench.compare.demo import Demo
from bench.compare.ways import ARMS, Answered, Turn
from bench.cost.work import Row
from pytest_compsec.generation.chat import encode, render


@dataclasses.dataclass
class OnePromptLoop:
    """The loop over both arms in ``dtype``, at most ``new_tokens`` tokens each."""

    key: str
    title: str
    dtype: str
    new_tokens: int
    demo: Demo
    prompts: Sequence[str]

    def prepare(self) -> None:
        for arm in ARMS:
            _answer(self.demo.arm(arm, self.dtype), self.prompts[0], 2)

    def turn(self) -> Turn:
        models = {arm: self.demo.arm(arm, self.dtype) for arm in ARMS}
        answered = []
        started = time.perf_counter()
        for arm, model in models.items():
            texts, rows = [], []
            for prompt in self.prompts:
                text, row = _answer(model, prompt, self.new_tokens)
                texts.append(text)
                rows.append((row,))
            answered.append(Answered(arm, tuple(texts), tuple(rows), rows_leave=True))
        return Turn(time.perf_counter() - started, tuple(answered))


def _answer(model: Any, prompt: str, new_tokens: int) -> tuple[str, Row]:
    tokenizer = model.tokenizer
    rendered = render(tokenizer, prompt, model.arm.system, model.arm.chat_template_kwargs)
    ids = torch.tensor(encode(tokenizer, [rendered]), device=model.device)
    with torch.no_grad():
        output = model.module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=new_tokens,
            pad_token_id=tokenizer.eos_token_id,
        )
    new = output[0, ids.shape[1] :]
    text = str(tokenizer.decode(new, skip_special_tokens=True)).strip()
    return text, Row(ids.shape[1], len(new))
