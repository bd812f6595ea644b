"""The original's answers as drafts of the compressed model's: checked in one pass, then continued.

A compressed model often begins as its original does. Reading a prompt and a draft together gives
its own likeliest token at every position of the draft: up to the first position where that is
another one, they are what step-by-step greedy decoding would have given, and the token there is
too. This is the greedy case of speculative decoding (Leviathan, Kalman & Matias 2023, "Fast
Inference from Transformers via Speculative Decoding", ICML), with an answer that is there already
in place of a draft model. A draft is only a guess: whatever its tokens, the result is that of
:func:`pytest_compsec.generation.greedy.greedy_batch` up to ties between logits.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from pytest_compsec.generation.greedy import (
    NotFiniteError,
    OnFirst,
    can_step,
    finish,
    greedy_batch,
    is_finished,
)
from pytest_compsec.generation.key_value_cache import keep_columns, keeps_columns
from pytest_compsec.generation.running import (
    NOT_FINITE,
    Running,
    likeliest,
    read,
    started,
)
from pytest_compsec.generation.settings import Answer, GenerationSettings

#: Rotary positions that change with the length of what is read.
_BY_LENGTH = frozenset({"longrope", "dynamic"})
#: (kind of device, section and method of the recipe) for which drafts were measured to be faster.
_FASTER: frozenset[tuple[str, str, str]] = frozenset()


def drafts_wanted(
    settings: GenerationSettings,
    *,
    device: str,
    section: str | None,
    method: str | None,
    alike: bool,
) -> bool:
    """Whether the original's answers are to be drafts of a compressed model on ``device``, of
    which ``section`` and ``method`` name the recipe (None: it comes from files of its own).
    ``alike``: both arms put a prompt to the model in the same way and run in transformers."""
    if not alike or settings.drafts == "off":
        return False
    return settings.drafts == "on" or drafts_pay(device, section, method)


def drafts_pay(device: str, section: str | None, method: str | None) -> bool:
    """Whether drafts were measured to be faster than plain batches; a fixed rule, so that one lock
    is answered in one way on every run.

    Nothing is listed. In batches on a CPU the matrix products take most of the time, and a token
    that is checked costs about two thirds of one that is decoded: more than that of each draft
    would have to be right. Less was, even of the original's own answers, for in bfloat16 rounding
    ends them early. SmolLM2-135M, 48 prompts, 64 tokens, one thread of an AMD EPYC (AVX-512 with
    bfloat16), ``python -m bench.drafts --clock processor``, medians of 3 turns:

    ========================  ===============  ========  =========  =====================
    compressed form           plain / drafted  accepted  same text  same in other batches
    ========================  ===============  ========  =========  =====================
    the original itself       0.82             56 %      20 of 48   45 of 48
    bitsandbytes int8         0.73             18 %      2 of 48    2 of 48
    bitsandbytes NF4          0.67             5 %       19 of 48   46 of 48
    round to nearest, 4 bits  0.67             3 %       23 of 48   45 of 48
    magnitude pruning, 30 %   0.65             2 %       15 of 48   44 of 48
    ========================  ===============  ========  =========  =====================

    But for int8, drafted answers also differ from plain ones more often than those of other batches
    do. GPUs, and processors with AMX, were not measured: until ``bench/drafts.py`` shows
    a ratio above 1 there, drafts have to be asked for with ``on``.
    """
    return (device.partition(":")[0], section or "", method or "") in _FASTER


class TakesDrafts(Protocol):
    """What is asked of a loaded model."""

    def generate(
        self,
        prompts: Sequence[str],
        settings: GenerationSettings,
        *,
        on_answers: Callable[[Sequence[int], Sequence[Answer]], None] | None = None,
        drafts: Mapping[str, Answer] | None = None,
    ) -> list[Answer]: ...


@dataclasses.dataclass(frozen=True)
class WithDrafts:
    """A loaded model that is asked with answers at hand: the original's, by prompt."""

    model: TakesDrafts
    drafts: Mapping[str, Answer]

    def generate(
        self,
        prompts: Sequence[str],
        settings: GenerationSettings,
        *,
        on_answers: Callable[[Sequence[int], Sequence[Answer]], None] | None = None,
    ) -> list[Answer]:
        """As the model's own ``generate``."""
        return self.model.generate(prompts, settings, on_answers=on_answers, drafts=self.drafts)


def can_draft(module: Any) -> bool:
    """Whether a module decodes step by step and gives logits for as many positions as it is asked:
    others would need memory for those of every prompt position. Where the positions of a pass
    depend on its length, a draft read with its prompt is another computation."""
    rope = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
    kinds = [rope, *rope.values()] if isinstance(rope, Mapping) else []
    if any(isinstance(one, Mapping) and one.get("rope_type") in _BY_LENGTH for one in kinds):
        return False
    return can_step(module) and "logits_to_keep" in inspect.signature(module.forward).parameters


def drafted_batch(
    module: Any,
    rows: Sequence[Sequence[int]],
    drafts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_tokens: frozenset[int],
    device: str,
    on_first: OnFirst | None = None,
) -> list[list[int]]:
    """As :func:`pytest_compsec.generation.greedy.greedy_batch`, with a guess of each row's new
    tokens (empty: none). ``module`` is one that :func:`can_draft` accepts."""
    guesses = [readable(draft, max_new_tokens, end_tokens) for draft in drafts]
    if not any(guesses):
        return greedy_batch(
            module,
            rows,
            max_new_tokens=max_new_tokens,
            end_tokens=end_tokens,
            device=device,
            on_first=on_first,
        )
    with torch.inference_mode():
        together = [[*row, *guess] for row, guess in zip(rows, guesses, strict=True)]
        longest = max(len(guess) for guess in guesses)
        places = list(range(len(rows)))
        running = started(module, together, 0, device, places)
        logits = read(module, running, longest + 1)
        if logits is None:
            nothing: list[list[int]] = [[] for _ in rows]
            return drafted_batch(
                module,
                rows,
                nothing,
                max_new_tokens=max_new_tokens,
                end_tokens=end_tokens,
                device=device,
                on_first=on_first,
            )
        if on_first is not None:
            first = [longest - len(guess) for guess in guesses]
            on_first(logits[range(len(rows)), first].to(torch.float32, copy=True))
        produced = accepted(likeliest(logits).tolist(), guesses, max_new_tokens, end_tokens)
        del logits
        left = [
            place
            for place in range(len(rows))
            if not is_finished(produced[place], max_new_tokens, end_tokens)
        ]
        if left:
            room = max_new_tokens - min(len(produced[place]) for place in left)
            if not keeps_columns(running.cache):
                del running
                again = [[*rows[place], *produced[place]] for place in left]
                running = started(module, again, room, device, left)
            else:
                lengths = [len(rows[place]) + len(produced[place]) - 1 for place in left]
                _crop(running, [len(row) for row in together], left, lengths, room)
                last = [[produced[place][-1]] for place in left]
                running.ids = torch.tensor(last, device=running.mask.device)
            finish(module, running, produced, max_new_tokens, end_tokens)
    return produced


def draft_rows(
    tokenizer: Any, rendered: Sequence[str], answers: Sequence[Answer | None]
) -> list[list[int]]:
    """The tokens that each answer was probably made of, for :func:`drafted_batch`; none where it
    says nothing about them: no answer, or one whose reasoning was left out.

    An answer is text without the space around it, and a tokenizer may write a text in several
    ways, so the original's likeliest first token (``Answer.first``) chooses among them.
    """
    useful = [place for place, answer in enumerate(answers) if _says_tokens(answer)]
    rows: list[list[int]] = [[] for _ in rendered]
    if not useful:
        return rows
    texts = [answer.text for answer in answers if answer is not None and _says_tokens(answer)]
    alone = _encoded(tokenizer, texts)
    heads = _encoded(tokenizer, [rendered[place] for place in useful])
    whole = _encoded(
        tokenizer,
        [rendered[place] + text for place, text in zip(useful, texts, strict=True)],
    )
    for at, place in enumerate(useful):
        candidates = [alone[at]]
        head = heads[at]
        if whole[at][: len(head)] == head:
            candidates.append(whole[at][len(head) :])
        answer = answers[place]
        first = answer.first[0][0] if answer is not None and answer.first else None
        if first is not None:
            candidates += [[first, *candidate] for candidate in candidates]
        rows[place] = next(
            (candidate for candidate in candidates if candidate[:1] == [first]), candidates[0]
        )
    return rows


def _says_tokens(answer: Answer | None) -> bool:
    return answer is not None and bool(answer.text) and not answer.reasoned


def _encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    rows: list[list[int]] = [
        list(row) for row in tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    ]
    return rows


def readable(draft: Sequence[int], max_new_tokens: int, end_tokens: frozenset[int]) -> list[int]:
    """What of a draft is worth reading: up to its end token, which the model itself has to give
    after what comes before, and one token less than may come."""
    end = next((place for place, token in enumerate(draft) if token in end_tokens), len(draft))
    return list(draft[: min(end, max(0, max_new_tokens - 1))])


def accepted(
    own: Sequence[Sequence[int]],
    guesses: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_tokens: frozenset[int],
) -> list[list[int]]:
    """The model's own tokens of each row up to the first that is not the guessed one, that one
    included. ``own`` holds, in its last ``len(guess) + 1`` columns, the model's tokens at the
    positions of the guess and after it. Raises NotFiniteError."""
    produced: list[list[int]] = []
    for row, (tokens, guess) in enumerate(zip(own, guesses, strict=True)):
        kept: list[int] = []
        for place, token in enumerate(tokens[len(tokens) - len(guess) - 1 :]):
            if token == NOT_FINITE:
                raise NotFiniteError(row)
            kept.append(token)
            differs = place == len(guess) or token != guess[place]
            if differs or is_finished(kept, max_new_tokens, end_tokens):
                break
        produced.append(kept)
    return produced


def _crop(
    running: Running, read_lengths: Sequence[int], left: list[int], lengths: list[int], room: int
) -> None:
    """Keep of the rows ``left`` what was read of their first ``lengths`` tokens, padded on the left
    as if nothing else had been read, with room for as many new columns."""
    device = running.mask.device
    total, width = running.seen, max(lengths)
    ends = torch.tensor(
        [total - read_lengths[place] + length for place, length in zip(left, lengths, strict=True)]
    )
    kept = torch.tensor(lengths)
    places = torch.arange(width)
    # Padding repeats the row's first column; the mask hides it.
    columns = (ends[:, None] - width + places).clamp(min=0).to(device)
    rows = torch.tensor(left, device=device)
    keep_columns(running.cache, rows, columns)
    mask = (places >= width - kept[:, None]).long()
    running.mask = torch.nn.functional.pad(mask, (0, room), value=1).to(device)
    running.positions = kept[:, None].to(device)
    running.seen, running.places = width, list(left)
