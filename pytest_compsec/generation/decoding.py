"""Answers of a loaded model: render, batch, decode greedily, read.

The front door is :func:`generate_answers`. It finds the batch size from free memory, halves it
when memory does not suffice, and hands over every finished batch at once, so that an interrupted
run keeps what it has. Whoever changes what a model would answer here raises ``ANSWERS_VERSION``
in :mod:`pytest_compsec.models.identity`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation.batching import (
    automatic_fit,
    is_out_of_memory,
    plan_batches,
    release_memory,
    row_limit,
    shuffled_batches,
)
from pytest_compsec.generation.chat import encode, render
from pytest_compsec.generation.drafts import can_draft, draft_rows, drafted_batch, readable
from pytest_compsec.generation.first_token import FirstTokens
from pytest_compsec.generation.greedy import NotFiniteError
from pytest_compsec.generation.reasoning import opened_by_prompt, read_answer, special_texts
from pytest_compsec.generation.settings import Answer, GenerationSettings

#: End-of-turn tokens that count when the tokenizer has them as special tokens and its chat
#: template writes them: many fine-tunes name only the end-of-text token as their end.
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|end_of_turn|>")

OnAnswers = Callable[[Sequence[int], Sequence[Answer]], None]


def generate_answers(
    module: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    settings: GenerationSettings,
    *,
    device: str,
    system: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    on_answers: OnAnswers | None = None,
    drafts: Mapping[str, Answer] | None = None,
) -> list[Answer]:
    """One greedy answer for each prompt, in the order of ``prompts``.

    ``module`` is a transformers causal language model on ``device``. ``on_answers(indices,
    answers)`` is called after every batch. ``drafts`` are guesses of the answers, by prompt: they
    save time where they are right and change no answer
    (see :mod:`pytest_compsec.generation.drafts`). Raises LoadError when the chat template cannot be
    used, MeasurementError when a prompt is too long, the logits are not numbers, or a single
    prompt does not fit into memory.
    """
    if not prompts:
        return []
    if getattr(getattr(module, "config", None), "is_encoder_decoder", False):
        raise MeasurementError(
            "this is an encoder-decoder model; answers are generated for decoder-only models"
        )
    rendered = [render(tokenizer, prompt, system, chat_template_kwargs) for prompt in prompts]
    rows = encode(tokenizer, rendered)
    _refuse_too_long(module, prompts, rows, settings.max_new_tokens)
    ends = end_tokens(module, tokenizer)
    if hasattr(module, "eval"):
        module.eval()

    guesses: list[list[int]] | None = None
    if drafts and can_draft(module):
        found = draft_rows(tokenizer, rendered, [drafts.get(prompt) for prompt in prompts])
        guesses = [readable(guess, settings.max_new_tokens, ends) for guess in found]
    lengths = [
        len(row) + len(guess) for row, guess in zip(rows, guesses or [[]] * len(rows), strict=True)
    ]
    pending = _planned(module, lengths, settings, device, drafted=guesses is not None)

    answers: dict[int, Answer] = {}
    while pending:
        batch = pending[0]
        first = FirstTokens()
        try:
            produced = drafted_batch(
                module,
                [rows[index] for index in batch],
                [guesses[index] for index in batch] if guesses is not None else [],
                max_new_tokens=settings.max_new_tokens,
                end_tokens=ends,
                device=device,
                on_first=first,
            )
        except NotFiniteError as error:
            raise MeasurementError(
                f"{error} on {_named(prompts, batch[error.row])}, so its answers mean nothing. "
                "float16 overflows in some models (set `dtype: bfloat16`); otherwise the weights "
                "are damaged"
            ) from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise MeasurementError(
                    f"not enough memory on {device} for {_named(prompts, batch[0])} alone: "
                    f"{len(rows[batch[0]])} tokens and {settings.max_new_tokens} new ones. Free "
                    "memory, choose a smaller dtype or another device, or shorten the prompt"
                ) from error
            produced = None
        likeliest = first.likeliest or [()] * len(batch)
        if produced is None:
            # Outside of the except clause: the error's traceback holds the tensors.
            release_memory()
            pending = _halved(pending, lengths)
            continue
        read = [
            _answer(tokenizer, tokens, ends, opened_by_prompt(rendered[index]), begins)
            for index, tokens, begins in zip(batch, produced, likeliest, strict=True)
        ]
        answers.update(zip(batch, read, strict=True))
        pending = pending[1:]
        if on_answers is not None:
            on_answers(batch, read)
    return [answers[index] for index in range(len(prompts))]


def end_tokens(module: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: those of the generation config, the model config and the
    tokenizer, and the end-of-turn token that the chat template writes."""
    found: set[int] = set()
    for source in (
        getattr(module, "generation_config", None),
        getattr(module, "config", None),
        tokenizer,
    ):
        named = getattr(source, "eos_token_id", None)
        found.update(token for token in _as_list(named) if token is not None)
    special = special_texts(tokenizer)
    template = str(getattr(tokenizer, "chat_template", None) or "")
    for text in _END_OF_TURN:
        if text in special and text in template:
            found.add(int(tokenizer.convert_tokens_to_ids(text)))
    return frozenset(int(token) for token in found)


def _answer(
    tokenizer: Any,
    tokens: Sequence[int],
    ends: frozenset[int],
    awaited: str | None,
    first: tuple[tuple[int, float], ...],
) -> Answer:
    stopped = bool(tokens) and tokens[-1] in ends
    reading = read_answer(tokenizer, tokens[:-1] if stopped else tokens, awaited)
    return Answer(
        text=reading.text,
        tokens=len(tokens),
        finish="stop" if stopped else "length",
        in_reasoning=reading.in_reasoning,
        reasoned=reading.reasoned,
        first=first,
    )


def _planned(
    module: Any,
    lengths: Sequence[int],
    settings: GenerationSettings,
    device: str,
    *,
    drafted: bool,
) -> list[list[int]]:
    rows = settings.batch_size
    if rows is not None:
        if settings.shuffle is not None:
            return shuffled_batches(lengths, rows, settings.shuffle)
        return plan_batches(lengths, rows)
    fits = automatic_fit(module, device, settings.max_new_tokens, drafted)
    if settings.shuffle is not None:
        return shuffled_batches(lengths, row_limit(device), settings.shuffle, fits)
    return plan_batches(lengths, row_limit(device), fits)


def _halved(pending: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[list[int]]:
    """The pending batches again, none larger than half of the one that failed."""
    left = [index for batch in pending for index in batch]
    plan = plan_batches([lengths[index] for index in left], max(1, len(pending[0]) // 2))
    return [[left[place] for place in batch] for batch in plan]


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]


def _named(prompts: Sequence[str], index: int) -> str:
    prompt = prompts[index]
    shown = prompt if len(prompt) <= 40 else prompt[:39] + "…"
    return f"prompt {index} ({shown!r})"


def _refuse_too_long(
    module: Any, prompts: Sequence[str], rows: Sequence[Sequence[int]], new_tokens: int
) -> None:
    config = module.config
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    limit = getattr(text, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return
    for index, row in enumerate(rows):
        if len(row) + new_tokens > limit:
            raise MeasurementError(
                f"{_named(prompts, index)} is {len(row)} tokens long with its chat template; with "
                f"max_new_tokens {new_tokens} that is more than the {limit} positions of this "
                "model. Shorten the prompt or lower max_new_tokens"
            )
