"""A model in llama.cpp answers, and says how likely answers are.

The same chat template, the same greedy decoding and the same reading of answers as in
:mod:`pytest_compsec.generation.decoding`; tokens of prompts and logits are llama.cpp's.

Each prompt is read alone and from an empty memory, so that neither order nor company changes an
answer. The key-value cache and the attention are those that llama.cpp chooses by itself.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.settings import Answer, GenerationSettings
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.weights import WeightReport

if TYPE_CHECKING:
    from pytest_compsec.models.llama_cpp_engine import Engine

#: Pieces of a prompt in which rounding differs from that of whole prompts, smallest and largest.
_OTHER_PIECES = (5, 24)


@dataclasses.dataclass(frozen=True, eq=False)
class LlamaCppModel:
    """One arm in llama.cpp: a :class:`pytest_compsec.models.loaded.LoadedModel` without a torch
    module. ``tokenizer`` is transformers' one for the same file: it renders the
    chat template and turns tokens into text; prompts become tokens by llama.cpp's own."""

    arm: Arm
    engine: Engine
    tokenizer: Any
    device: str
    dtype: str
    weights: WeightReport

    @property
    def module(self) -> NoReturn:
        """There is none. Raises MeasurementError, for whoever looks inside."""
        raise MeasurementError(
            f"{self.arm.name} runs in llama.cpp, which does not show its layers. To look inside, "
            "name the same file in a variant without 'runtime': transformers unpacks it then"
        )

    def serving(self, arm: Arm) -> LlamaCppModel:
        """The same model in memory for another arm with the same weights."""
        return dataclasses.replace(self, arm=arm)

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt in the arm's chat template, by llama.cpp's tokenizer."""
        rows = [self.engine.tokenize(text) for text in self._rendered(prompts)]
        for place, row in enumerate(rows):
            if not row:
                raise MeasurementError(f"prompt {place} is empty after the chat template")
        return rows

    def generate(
        self,
        prompts: Sequence[str],
        settings: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
        *,
        on_answers: Callable[[Sequence[int], Sequence[Answer]], None] | None = None,
    ) -> list[Answer]:
        """Answer each prompt greedily, in the arm's chat template and with its system prompt.

        One prompt at a time, in the order of ``prompts``; ``on_answers([index], [answer])`` hears
        of each. ``settings.batch_size`` changes nothing. With ``settings.shuffle`` prompts are
        read in small pieces: llama.cpp computes long ones otherwise then, short ones with the
        same result bit for bit (on x86), so its noise floor may well be none.

        Raises LoadError when the chat template cannot be used, MeasurementError when a prompt is
        too long, memory does not suffice, or the logits are not numbers.
        """
        from pytest_compsec.generation.decoding import end_tokens
        from pytest_compsec.generation.reasoning import opened_by_prompt
        from pytest_compsec.models.llama_cpp_engine import PIECE

        rows = self.encode(prompts)
        awaited = [opened_by_prompt(text) for text in self._rendered(prompts)]
        self._refuse_too_long(prompts, rows, settings.max_new_tokens)
        ends = self.engine.ends | end_tokens(None, self.tokenizer)
        piece = (
            PIECE
            if settings.shuffle is None
            else random.Random(settings.shuffle).randint(*_OTHER_PIECES)
        )
        answers: list[Answer] = []
        for place, row in enumerate(rows):
            self.engine.begin(len(row) + settings.max_new_tokens)
            name = _named(prompts, place)
            answer = self._answer(row, settings.max_new_tokens, ends, awaited[place], piece, name)
            answers.append(answer)
            if on_answers is not None:
                on_answers([place], [answer])
        return answers

    def perplexities(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        """Perplexity of each answer to its prompt in this runtime, its first tokens not counted
        (see :mod:`pytest_compsec.judges.coherence`); None where too few are left."""
        from pytest_compsec.judges.coherence import SKIPPED_TOKENS, answer_perplexity

        found: list[float | None] = []
        for nlls in self.answer_nlls(prompts, answers):
            counted = nlls[SKIPPED_TOKENS:]
            mean = sum(counted) / len(counted) if counted else math.nan
            found.append(answer_perplexity(len(counted), mean) if counted else None)
        return found

    def answer_nlls(
        self, prompts: Sequence[str], answers: Sequence[str]
    ) -> list[tuple[float, ...]]:
        """For each answer the negative log-likelihood (nats) of each of its tokens after the
        rendered prompt; an answer beyond the model's positions is scored up to there.

        Raises ValueError when there is not one answer for each prompt, else as :meth:`generate`.
        """
        import numpy as np

        if len(prompts) != len(answers):
            raise ValueError(f"{len(prompts)} prompts but {len(answers)} answers")
        rows = self.encode(prompts)
        self._refuse_too_long(prompts, rows, 1)
        found: list[tuple[float, ...]] = []
        for place, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            tokens = self.engine.tokenize(answer)[: self.engine.positions - len(row)]
            if not tokens:
                found.append(())
                continue
            self.engine.begin(len(row) + len(tokens))
            pieces = [self.engine.read(row)[None], *self.engine.read_all(tokens[:-1])]
            nlls: list[float] = []
            for logits in pieces:
                if not np.isfinite(logits.max(axis=-1)).all():
                    raise MeasurementError(_not_numbers(_named(prompts, place)))
                chosen = logits[range(len(logits)), tokens[len(nlls) : len(nlls) + len(logits)]]
                top = logits.max(axis=-1)
                whole = top + np.log(np.exp(logits - top[:, None]).sum(axis=-1))
                nlls.extend(np.maximum(whole - chosen, 0.0).tolist())
            found.append(tuple(nlls))
        return found

    def _answer(
        self,
        row: Sequence[int],
        limit: int,
        ends: frozenset[int],
        awaited: str | None,
        piece: int,
        name: str,
    ) -> Answer:
        import numpy as np
        import torch

        from pytest_compsec.generation.first_token import FirstTokens
        from pytest_compsec.generation.reasoning import read_answer

        first, unread = FirstTokens(), list(row)
        tokens: list[int] = []
        while len(tokens) < limit and not (tokens and tokens[-1] in ends):
            logits = self.engine.read(unread, piece=piece)
            token = int(logits.argmax())
            if not np.isfinite(logits[token]):
                raise MeasurementError(_not_numbers(name))
            if not tokens:
                first(torch.from_numpy(logits[None]))
            tokens.append(token)
            unread = [token]
        stopped = bool(tokens) and tokens[-1] in ends
        reading = read_answer(self.tokenizer, tokens[:-1] if stopped else tokens, awaited)
        return Answer(
            text=reading.text,
            tokens=len(tokens),
            finish="stop" if stopped else "length",
            in_reasoning=reading.in_reasoning,
            reasoned=reading.reasoned,
            first=first.likeliest[0] if first.likeliest else (),
        )

    def _rendered(self, prompts: Sequence[str]) -> list[str]:
        from pytest_compsec.generation.chat import render

        return [
            render(self.tokenizer, prompt, self.arm.system, self.arm.chat_template_kwargs)
            for prompt in prompts
        ]

    def _refuse_too_long(
        self, prompts: Sequence[str], rows: Sequence[Sequence[int]], new_tokens: int
    ) -> None:
        limit = self.engine.positions
        for place, row in enumerate(rows):
            if limit > 0 and len(row) + new_tokens > limit:
                raise MeasurementError(
                    f"{_named(prompts, place)} is {len(row)} tokens long with its chat template; "
                    f"with {new_tokens} new ones that is more than the {limit} positions of this "
                    "model. Shorten the prompt or lower max_new_tokens"
                )


def _not_numbers(name: str) -> str:
    return (
        f"the model gave NaN or infinite logits in llama.cpp on {name}, so its answers mean "
        "nothing. The weights in the file are damaged or overflow: convert the model again"
    )


def _named(prompts: Sequence[str], index: int) -> str:
    prompt = prompts[index]
    shown = prompt if len(prompt) <= 40 else prompt[:39] + "…"
    return f"prompt {index} ({shown!r})"
