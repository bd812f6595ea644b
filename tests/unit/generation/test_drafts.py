"""Drafts change the time that answers take and nothing else."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.errors import MeasurementError
from pytest_compsec.generation import decoding, drafts
from pytest_compsec.generation.decoding import generate_answers
from pytest_compsec.generation.drafts import (
    WithDrafts,
    draft_rows,
    drafted_batch,
    drafts_pay,
    drafts_wanted,
)
from pytest_compsec.generation.greedy import NotFiniteError, greedy_batch
from pytest_compsec.generation.settings import Answer, GenerationSettings
from tests.unit.generation.test_greedy import (
    CONFIGS,
    NEW_TOKENS,
    VOCABULARY,
    frequent_tokens,
    make,
    some_rows,
)
from tests.unit.trained_tiny_model import prompt, train_tiny_checkpoint

Rows = list[list[int]]


@functools.cache
def model(kind: str = "llama") -> tuple[Any, Rows, frozenset[int], Rows]:
    """A module, prompts, end tokens, and what plain decoding answers."""
    module, rows = make(kind), some_rows()
    ends = frequent_tokens(module, rows)
    return module, rows, ends, plain(module, rows, ends)


def plain(module: Any, rows: Rows, ends: frozenset[int], new_tokens: int = NEW_TOKENS) -> Rows:
    return greedy_batch(module, rows, max_new_tokens=new_tokens, end_tokens=ends, device="cpu")


def drafted(
    module: Any, rows: Rows, guesses: Rows, ends: frozenset[int], new_tokens: int = NEW_TOKENS
) -> Rows:
    return drafted_batch(
        module, rows, guesses, max_new_tokens=new_tokens, end_tokens=ends, device="cpu"
    )


def random_rows(answers: Rows) -> Rows:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, VOCABULARY, (11,), generator=generator).tolist() for _ in answers]


def broken_somewhere(answers: Rows) -> Rows:
    """Each differs from its answer at a place of its own, the first and the last among them."""
    broken = []
    for place, answer in enumerate(answers):
        at = place % len(answer)
        broken.append([*answer[:at], (answer[at] + 1) % VOCABULARY, *answer[at + 1 :]])
    return broken


GUESSES: dict[str, Callable[[Rows], Rows]] = {
    "random": random_rows,
    "none": lambda answers: [[] for _ in answers],
    "none for some": lambda answers: [a if i % 3 else [] for i, a in enumerate(answers)],
    "perfect": lambda answers: answers,
    "perfect, without the end token": lambda answers: [answer[:-1] for answer in answers],
    "the beginning": lambda answers: [a[: 1 + i % 7] for i, a in enumerate(answers)],
    "longer than may come": lambda answers: [[*answer, *[9] * NEW_TOKENS] for answer in answers],
    "wrong at once": lambda answers: [[(a[0] + 1) % VOCABULARY, *a[1:]] for a in answers],
    "wrong somewhere": broken_somewhere,
}


# mamba's state is no cache of keys and values: it never gets drafts.
@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "mamba"])
@pytest.mark.parametrize("guess", GUESSES)
def test_whatever_the_draft_the_answer_is_that_of_plain_decoding(kind: str, guess: str) -> None:
    module, rows, ends, expected = model(kind)
    assert drafted(module, rows, GUESSES[guess](expected), ends) == expected


def test_which_kinds_of_models_take_drafts() -> None:
    takes = {kind: drafts.can_draft(make(kind)) for kind in CONFIGS}
    assert takes.pop("mamba") is False
    assert all(takes.values())


@pytest.mark.parametrize("place", [0, 1, 4])
def test_an_end_token_in_the_middle_of_a_draft(place: int) -> None:
    module, rows, ends, expected = model()
    end = min(ends)
    guesses = [[*answer[:place], end, *answer[place:]] for answer in expected]
    assert drafted(module, rows, guesses, ends) == expected


@pytest.mark.parametrize("new_tokens", [1, 2, 7])
def test_no_more_tokens_than_may_come(new_tokens: int) -> None:
    module, rows, _, _ = model()
    nothing_ends: frozenset[int] = frozenset()
    longer = plain(module, rows, nothing_ends, 12)
    expected = plain(module, rows, nothing_ends, new_tokens)
    assert drafted(module, rows, longer, nothing_ends, new_tokens) == expected
    assert {len(answer) for answer in expected} == {new_tokens}


@pytest.fixture
def forwards() -> Iterator[Callable[[Any], list[tuple[int, int]]]]:
    handles = []

    def watch(module: Any) -> list[tuple[int, int]]:
        shapes: list[tuple[int, int]] = []
        handles.append(
            module.register_forward_pre_hook(
                lambda _, __, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
                with_kwargs=True,
            )
        )
        return shapes

    yield watch
    for handle in handles:
        handle.remove()


def test_a_perfect_draft_takes_one_pass(forwards: Any) -> None:
    module, rows, ends, expected = model()
    shapes = forwards(module)
    plain(module, rows, ends)
    assert len(shapes) == max(map(len, expected)) > 8
    shapes.clear()
    drafted(module, rows, expected, ends)
    assert len(shapes) == 1


def test_only_unfinished_rows_go_on_and_nothing_is_read_twice(forwards: Any) -> None:
    module, rows, _, _ = model()
    ends: frozenset[int] = frozenset()
    expected = plain(module, rows, ends, 16)
    guesses = [answer if i % 2 else answer[:4] for i, answer in enumerate(expected)]
    shapes = forwards(module)
    assert drafted(module, rows, guesses, ends, 16) == expected
    # Four guessed tokens and the one after them are there; eleven are to come, one a step.
    assert shapes[1:] == [(len(rows) // 2, 1)] * 11


def test_a_cache_that_cannot_be_cut_is_filled_again(forwards: Any) -> None:
    module, rows, ends, expected = model("mistral-window")
    shapes = forwards(module)
    assert drafted(module, rows, broken_somewhere(expected), ends) == expected
    assert [width > 1 for _, width in shapes[:3]] == [True, True, False]


@pytest.mark.parametrize("fault", ["one token too many", "the whole draft"])
def test_a_checker_that_accepts_too_much_is_caught(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, rows, ends, expected = model()
    guesses = broken_somewhere(expected)
    assert drafted(module, rows, guesses, ends) == expected
    right = drafts.accepted

    def faulty(own: Rows, given: Rows, *rest: Any) -> Rows:
        pairs = zip(right(own, given, *rest), given, strict=True)
        if fault == "the whole draft":
            return [list(guess) or kept for kept, guess in pairs]
        return [kept + guess[len(kept) :][:1] for kept, guess in pairs]

    monkeypatch.setattr(drafts, "accepted", faulty)
    assert drafted(module, rows, guesses, ends) != expected


@pytest.mark.parametrize("place", [0, 3])
def test_logits_that_are_no_numbers_are_an_error(place: int) -> None:
    module, rows, _, _ = model()
    nothing_ends: frozenset[int] = frozenset()
    expected = plain(module, rows, nothing_ends, 8)

    def damage(_: Any, __: Any, output: Any) -> Any:
        if output.logits.shape[1] > 1:
            output.logits[2, place] = float("nan")
        return output

    handle = module.register_forward_hook(damage)
    try:
        with pytest.raises(NotFiniteError) as caught:
            drafted(module, rows, expected, nothing_ends, 8)
        assert caught.value.row == 2
        # After the first difference, what the model would say no longer counts.
        wrong_at_once = [[(a[0] + 1) % VOCABULARY, *a[1:]] for a in expected]
        if place:
            assert drafted(module, rows, wrong_at_once, nothing_ends, 8) == expected
    finally:
        handle.remove()


def test_the_first_logits_are_those_after_the_prompt() -> None:
    module, rows, ends, expected = model()
    seen: list[torch.Tensor] = []
    common: dict[str, Any] = {
        "max_new_tokens": 6,
        "end_tokens": ends,
        "device": "cpu",
        "on_first": seen.append,
    }
    greedy_batch(module, rows, **common)
    guesses = [answer[: place % 6] for place, answer in enumerate(expected)]
    drafted_batch(module, rows, guesses, **common)
    assert len(seen) == 2
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-4, atol=1e-4)


# From prompts to answers.

PROMPTS = [prompt(number, harmful=number % 2 == 0) for number in range(400, 424)]
SETTINGS = GenerationSettings(max_new_tokens=30)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory: Path = train_tiny_checkpoint(tmp_path_factory.mktemp("drafts"), steps=100)
    of_directory: Any = AutoModelForCausalLM.from_pretrained(str(directory))
    return of_directory.eval().requires_grad_(False), AutoTokenizer.from_pretrained(str(directory))


def compressed(trained: tuple[Any, Any], how: str) -> Any:
    import copy

    from pytest_compsec.compression import bitsandbytes, magnitude
    from tests.unit.tiny_model import make_recipe

    module = copy.deepcopy(trained[0])
    if how == "pruned":
        options = make_recipe("prune", method="magnitude", sparsity=0.5).options
        return magnitude.apply(module, options, "cpu")
    values: dict[str, Any] = {"bits": 8} if how == "int8" else {"bits": 4, "type": "nf4"}
    options = make_recipe("quantize", method="bitsandbytes", **values).options
    return bitsandbytes.apply(module, options, "cpu")


def ask(module: Any, tokenizer: Any, **more: Any) -> list[Answer]:
    settings = more.pop("settings", SETTINGS)
    return generate_answers(module, tokenizer, PROMPTS, settings, device="cpu", **more)


@pytest.mark.parametrize("how", ["pruned", "int8", "nf4"])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_a_compressed_model_answers_the_same_with_its_original_s_answers_as_drafts(
    trained: tuple[Any, Any], how: str, batch_size: int | None
) -> None:
    original = dict(zip(PROMPTS, ask(*trained), strict=True))
    module = compressed(trained, how)
    settings = GenerationSettings(max_new_tokens=30, batch_size=batch_size)
    expected = ask(module, trained[1], settings=settings)
    heard: list[int] = []
    answers = ask(
        module,
        trained[1],
        settings=settings,
        drafts=original,
        on_answers=lambda indices, _: heard.extend(indices),
    )
    assert answers == expected
    assert sorted(heard) == list(range(len(PROMPTS)))
    for one, other in zip(answers, expected, strict=True):
        assert one.first[0][0] == other.first[0][0]
        assert one.first[0][1] == pytest.approx(other.first[0][1], abs=1e-3)


def test_the_original_s_answers_save_it_nearly_all_passes(
    trained: tuple[Any, Any], forwards: Any
) -> None:
    module, tokenizer = trained
    known = ask(module, tokenizer)
    assert Counter(answer.finish for answer in known)["stop"] > len(PROMPTS) // 2
    shapes = forwards(module)
    assert ask(module, tokenizer, drafts=dict(zip(PROMPTS, known, strict=True))) == known
    assert len(shapes) == 1
    shapes.clear()
    some = dict(zip(PROMPTS[:4], known, strict=False))
    assert ask(module, tokenizer, drafts=some) == known
    assert len(shapes) > 10, "those without a draft are decoded step by step"


def test_out_of_memory_halves_a_batch_with_drafts(trained: tuple[Any, Any]) -> None:
    module, tokenizer = trained
    known = ask(module, tokenizer)
    tried: list[int] = []

    def short_of_memory(_: Any, __: Any, kwargs: Any) -> None:
        tried.append(len(kwargs["input_ids"]))
        if tried[-1] > 6:
            raise torch.OutOfMemoryError

    handle = module.register_forward_pre_hook(short_of_memory, with_kwargs=True)
    try:
        answers = ask(module, tokenizer, drafts=dict(zip(PROMPTS, known, strict=True)))
    finally:
        handle.remove()
    assert answers == known
    assert tried == [24, 12, 6, 6, 6, 6]


def test_a_model_of_nans_is_not_measured_with_drafts(trained: tuple[Any, Any]) -> None:
    module = compressed(trained, "pruned")
    known = dict(zip(PROMPTS, ask(*trained), strict=True))
    with torch.no_grad():
        module.model.norm.weight.fill_(float("nan"))
    with pytest.raises(MeasurementError, match=r"NaN or infinite logits on prompt \d+"):
        ask(module, trained[1], drafts=known)


def test_less_memory_means_smaller_batches_with_drafts(
    trained: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_compsec.generation import batching

    monkeypatch.setattr(batching, "free_memory", lambda device: 1 << 24)
    sizes: dict[bool, list[int]] = {True: [], False: []}
    known = dict(zip(PROMPTS, ask(*trained), strict=True))
    for given in (True, False):
        ask(
            *trained,
            drafts=known if given else None,
            on_answers=lambda indices, _, given=given: sizes[given].append(len(indices)),
        )
    assert max(sizes[True]) < max(sizes[False])


def answer_of(text: str, first: int | None = None, **more: Any) -> Answer:
    likeliest = () if first is None else ((first, -0.1),)
    return Answer(text, 5, "stop", first=likeliest, **more)


def test_answers_whose_tokens_are_not_known_are_no_drafts(tokenizer: Any) -> None:
    reasoned = answer_of("Yes.", reasoned=True)
    cut = Answer("", 5, "length", in_reasoning=True)
    assert draft_rows(tokenizer, ["a", "b", "c"], [reasoned, cut, None]) == [[], [], []]


def test_the_first_token_chooses_among_the_ways_to_write_an_answer(tokenizer: Any) -> None:
    alone = tokenizer("Yes.", add_special_tokens=False)["input_ids"]
    space = tokenizer(" ", add_special_tokens=False)["input_ids"][0]
    of: Callable[..., Sequence[int]] = lambda first: draft_rows(  # noqa: E731
        tokenizer, ["Well?"], [answer_of("Yes.", first)]
    )[0]
    assert of(None) == alone
    assert of(alone[0]) == alone
    assert of(space) == [space, *alone], "the space that the text was stripped of"


def test_a_module_that_takes_no_drafts_answers_without(
    trained: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = dict(zip(PROMPTS, ask(*trained), strict=True))
    monkeypatch.setattr(decoding, "can_draft", lambda module: False)
    monkeypatch.setattr(drafts, "accepted", lambda *_: pytest.fail("a draft was checked"))
    assert ask(*trained, drafts=known) == list(known.values())


def test_when_drafts_are_used_is_a_fixed_rule() -> None:
    recipe: dict[str, Any] = {"section": "quantize", "method": "bitsandbytes"}

    def wanted(how: Any, *, alike: bool = True, device: str = "cpu") -> bool:
        settings = GenerationSettings(drafts=how)
        return drafts_wanted(settings, device=device, alike=alike, **recipe)

    assert wanted("on")
    assert not wanted("on", alike=False), "prompts are put to the two arms in different ways"
    assert not wanted("off")
    assert wanted("auto") == drafts_pay("cpu", **recipe)
    assert not drafts_pay("cuda:0", None, None), "not measured"


def test_a_model_with_drafts_is_asked_like_one_without(trained: tuple[Any, Any]) -> None:
    class Model:
        def generate(self, prompts: Sequence[str], settings: Any, **more: Any) -> list[Answer]:
            return generate_answers(*trained, prompts, settings, device="cpu", **more)

    known = ask(*trained)
    heard: list[int] = []
    model = WithDrafts(Model(), dict(zip(PROMPTS, known, strict=True)))
    answers = model.generate(PROMPTS, SETTINGS, on_answers=lambda places, _: heard.extend(places))
    assert answers == known
    assert sorted(heard) == list(range(len(PROMPTS)))
