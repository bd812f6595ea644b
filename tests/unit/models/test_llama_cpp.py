"""GGUF files in llama.cpp: the same questions, the deployed artefact's own answers."""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_compsec.errors import IntegrityError, LoadError, MeasurementError
from pytest_compsec.generation.chat import encode, render
from pytest_compsec.generation.scoring import answer_nlls
from pytest_compsec.generation.settings import Answer, GenerationSettings
from pytest_compsec.models.llama_cpp import (
    LlamaCppModel,
    load_llama_cpp,
    runtime_device,
    runtime_facts,
)
from pytest_compsec.models.llama_cpp_engine import silent
from pytest_compsec.models.loaded import LoadedModel
from pytest_compsec.models.loading import load
from pytest_compsec.models.runtime_agreement import compare_runtimes
from tests.unit.models.tiny_gguf import BITS, POSITIONS, write_tiny_gguf
from tests.unit.tiny_model import SPECIAL_TOKENS, make_arm, staged

llama_cpp = pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")
pytestmark = pytest.mark.heavy

ENTRY = "m.gguf"
PROMPTS = (
    "the other thing",
    "What is 1234?",
    "Wie geht's? ü",
    "a",
    "Say <|im_end|> twice " * 3,
    "x" * 90,
    "Please count to ten.",
    "this, that",
)
FEW = GenerationSettings(max_new_tokens=12)


def open_file(directory: Path, **fields: Any) -> LlamaCppModel:
    fields.setdefault("files", staged(directory, entry=ENTRY))
    return load_llama_cpp(make_arm(directory, **fields))


def unpacked(directory: Path) -> LoadedModel:
    return load(make_arm(directory, files=staged(directory, entry=ENTRY)))


def exact(answers: Sequence[Answer]) -> list[tuple[Any, ...]]:
    """Equality of answers leaves out the first tokens; here they count."""
    return [(answer, answer.first) for answer in answers]


def likeliest_tokens(model: LlamaCppModel, prompt: str, count: int) -> list[int]:
    """The first ``count`` tokens of the greedy path, wherever an answer would end on it."""
    (unread,) = model.encode([prompt])
    model.engine.begin(len(unread) + count)
    tokens: list[int] = []
    for _ in range(count):
        tokens.append(int(model.engine.read(unread).argmax()))
        unread = tokens[-1:]
    return tokens


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("q8")
    write_tiny_gguf(path / ENTRY, "Q8_0")
    return path


@pytest.fixture(scope="module")
def model(directory: Path) -> LlamaCppModel:
    return open_file(directory)


@pytest.fixture(scope="module")
def dense(directory: Path) -> LoadedModel:
    return unpacked(directory)


# The same weights


@pytest.mark.parametrize("kind", sorted(BITS))
def test_both_runtimes_read_the_same_weights_from_every_type(kind: str, tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / ENTRY, kind)
    runtime, dense = open_file(tmp_path), unpacked(tmp_path)
    found = compare_runtimes(dense, runtime, PROMPTS, FEW, refused=lambda prompt, text: False)
    assert found.shared_tokens > 20 * len(PROMPTS)
    assert found.mean_difference is not None
    assert found.mean_difference < 0.2

    # Weights of another seed are what a wrong reading of the blocks looks like.
    (tmp_path / "other").mkdir()
    write_tiny_gguf(tmp_path / "other" / ENTRY, kind, seed=1)
    other = dataclasses.replace(open_file(tmp_path / "other"), arm=dense.arm)
    wrong = compare_runtimes(dense, other, PROMPTS, FEW, refused=lambda prompt, text: False)
    assert wrong.mean_difference is None or wrong.mean_difference > 3 * found.mean_difference
    assert wrong.same_first_token < found.same_first_token


def test_the_report_shows_the_blocks_that_it_computes_with(model: LlamaCppModel) -> None:
    assert model.weights.stored_bits == 8.5
    assert {m.storage for m in model.weights.of("linear")} == {"Q8_0"}
    assert model.weights.bits == 8.0
    assert (model.device, model.dtype) == ("cpu", "float32")


# The same questions


def test_prompts_become_the_tokens_that_transformers_makes(
    model: LlamaCppModel, dense: LoadedModel
) -> None:
    rendered = [render(dense.tokenizer, prompt) for prompt in PROMPTS]
    assert model.encode(PROMPTS) == encode(dense.tokenizer, rendered)
    # The template's special tokens are tokens, and none is added.
    row = model.encode(["a"])[0]
    assert row.count(dense.tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2


def test_the_system_prompt_of_the_arm_is_read(model: LlamaCppModel) -> None:
    kind = dataclasses.replace(model, arm=dataclasses.replace(model.arm, system="Be kind."))
    assert exact(kind.generate(PROMPTS[:2], FEW)) != exact(model.generate(PROMPTS[:2], FEW))
    assert len(kind.encode(["a"])[0]) > len(model.encode(["a"])[0])


# The same answer, always


def test_the_same_prompt_twice_gives_the_same_answer(model: LlamaCppModel) -> None:
    first, second = model.generate([PROMPTS[0], PROMPTS[0]], FEW)
    assert exact([first]) == exact([second])
    assert exact(model.generate([PROMPTS[0]], FEW)) == exact([first])


def test_order_and_company_change_no_answer(model: LlamaCppModel, directory: Path) -> None:
    together = exact(model.generate(PROMPTS, FEW))
    assert exact(model.generate(PROMPTS[::-1], FEW))[::-1] == together
    fresh = open_file(directory)
    # Alone, in a new process's state; then after a prompt that needs a larger memory.
    assert exact(fresh.generate(PROMPTS[2:3], FEW)) == together[2:3]
    fresh.generate(["y" * 400], FEW)
    assert exact(fresh.generate(PROMPTS[2:3], FEW)) == together[2:3]


def test_a_larger_context_changes_no_answer(
    model: LlamaCppModel, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_compsec.models.llama_cpp_engine._LEAST_CONTEXT", 64)
    small = open_file(directory)
    few = exact(small.generate(["a"], FEW))
    grown = exact(small.generate([*PROMPTS, "a"], FEW))
    assert grown[-1:] == few == exact(model.generate(["a"], FEW))
    assert grown[:-1] == exact(model.generate(PROMPTS, FEW))


def test_threads_change_no_answer(
    model: LlamaCppModel, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in (1, 2):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        assert exact(open_file(directory).generate(PROMPTS, FEW)) == exact(
            model.generate(PROMPTS, FEW)
        )


def test_a_control_run_rounds_otherwise(model: LlamaCppModel) -> None:
    # Only long prompts: a few rows go through the same arithmetic in pieces of any size.
    assert max(len(row) for row in model.encode(PROMPTS)) > 100
    plain = model.generate(PROMPTS, FEW)
    other = model.generate(PROMPTS, dataclasses.replace(FEW, shuffle=1))
    assert exact(other) != exact(plain)
    differences = [
        abs(value - dict(second.first)[token])
        for first, second in zip(plain, other, strict=True)
        for token, value in first.first
        if token in dict(second.first)
    ]
    assert 0.0 < max(differences) < 0.2
    assert exact(model.generate(PROMPTS, dataclasses.replace(FEW, shuffle=1))) == exact(other)


# What an answer is


def test_an_answer_ends_at_an_end_token_or_at_the_limit(model: LlamaCppModel) -> None:
    prompts = [f"{word} {number}" for word in PROMPTS[:4] for number in range(8)]
    answers = model.generate(prompts, GenerationSettings(max_new_tokens=40))
    stopped = [answer for answer in answers if answer.finish == "stop"]
    assert 0 < len(stopped) < len(answers)
    assert all(answer.tokens <= 40 for answer in stopped)
    assert all(answer.tokens == 40 for answer in answers if answer.finish == "length")
    assert not any("<|" in answer.text for answer in answers)
    ends = {model.tokenizer.convert_tokens_to_ids(text) for text in SPECIAL_TOKENS[::2]}
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = likeliest_tokens(model, prompt, answer.tokens)
        assert ends.isdisjoint(tokens[:-1])
        assert (tokens[-1] in ends) == (answer.finish == "stop")
        text = model.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert answer.text == text.strip()
    # The likeliest first token is the one that was taken, and best first.
    for answer in answers:
        values = [value for _, value in answer.first]
        assert values == sorted(values, reverse=True)
        assert len(values) == 40
        assert sum(np.exp(values)) <= 1.0 + 1e-3


def test_every_answer_is_heard_of_at_once(model: LlamaCppModel) -> None:
    heard: list[tuple[int, Answer]] = []

    def hear(indices: Sequence[int], answers: Sequence[Answer]) -> None:
        heard.extend(zip(indices, answers, strict=True))

    answers = model.generate(PROMPTS, FEW, on_answers=hear)
    assert heard == list(enumerate(answers))


def test_no_prompts_and_no_new_tokens(model: LlamaCppModel) -> None:
    assert model.generate([], FEW) == []
    (empty,) = model.generate(["a"], GenerationSettings(max_new_tokens=0))
    assert (empty.text, empty.tokens, empty.finish) == ("", 0, "length")


# How likely an answer is


def test_likelihoods_are_those_of_the_unpacked_weights(
    model: LlamaCppModel, dense: LoadedModel
) -> None:
    answers = ["the thing", "No.", "", "z" * 150, "ü"]
    found = model.answer_nlls(PROMPTS[:5], answers)
    expected = answer_nlls(dense.module, dense.tokenizer, PROMPTS[:5], answers, device=dense.device)
    assert [len(nlls) for nlls in found] == [len(nlls) for nlls in expected]
    assert found[2] == ()
    differences = np.abs(np.concatenate(found) - np.concatenate(expected))
    assert differences.mean() < 0.1
    # Shifted by one token, as a wrong position would, they are far off.
    shifted = np.abs(np.array(found[0][1:]) - np.array(expected[0][:-1]))
    assert shifted.mean() > 1.0


def test_likelihood_of_a_first_token_is_the_one_that_was_kept(model: LlamaCppModel) -> None:
    (answer,) = model.generate(["a"], FEW)
    letters = [(token, value) for token, value in answer.first if 32 < token < 90][:5]
    assert letters
    for token, value in letters:
        text = str(model.tokenizer.decode([token]))
        assert model.engine.tokenize(text) == [token]
        assert model.answer_nlls(["a"], [text])[0][0] == pytest.approx(-value, abs=1e-3)


def test_perplexity_leaves_out_short_answers(model: LlamaCppModel, dense: LoadedModel) -> None:
    answers = ["ab", "the other thing, the other"]
    found = model.perplexities(PROMPTS[:2], answers)
    expected = dense.perplexities(PROMPTS[:2], answers)
    assert found[0] is None
    assert expected[0] is None
    assert found[1] is not None
    assert expected[1] is not None
    assert np.log(found[1]) == pytest.approx(np.log(expected[1]), abs=0.2)


# Errors


@pytest.mark.parametrize("ask", ["generate", "score"])
def test_a_prompt_beyond_the_models_positions_is_an_error(model: LlamaCppModel, ask: str) -> None:
    long = "y" * POSITIONS
    asked: Callable[[], Any] = (
        (lambda: model.generate(["a", long], FEW))
        if ask == "generate"
        else (lambda: model.perplexities(["a", long], ["b", "b"]))
    )
    with pytest.raises(MeasurementError, match=rf"prompt 1 \('yyy.*{POSITIONS} positions"):
        asked()


@pytest.mark.parametrize("ask", ["generate", "score"])
def test_logits_that_are_no_numbers_are_an_error(tmp_path: Path, ask: str) -> None:
    write_tiny_gguf(tmp_path / ENTRY, last_norm=3e38)
    broken = open_file(tmp_path)
    asked: Callable[[], Any] = (
        (lambda: broken.generate(["a"], FEW))
        if ask == "generate"
        else (lambda: broken.perplexities(["a"], ["the other thing"]))
    )
    with pytest.raises(MeasurementError, match=r"NaN or infinite logits.*on prompt 0"):
        asked()


def test_damaged_scales_are_an_error_before_any_answer(tmp_path: Path) -> None:
    blocks = write_tiny_gguf(tmp_path / ENTRY)["blk.0.ffn_up.weight"].copy()
    blocks[2, 0:2] = np.frombuffer(np.float16("nan").tobytes(), np.uint8)
    write_tiny_gguf(tmp_path / ENTRY, replaced={"blk.0.ffn_up.weight": blocks})
    with pytest.raises(LoadError, match=r"m\.gguf.*ffn_up"):
        open_file(tmp_path)


def test_a_file_of_an_unknown_architecture_is_an_error(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / ENTRY)
    data = (tmp_path / ENTRY).read_bytes()
    (tmp_path / ENTRY).write_bytes(data.replace(b"llama", b"lxama"))
    with pytest.raises(LoadError, match=r"tiny.*architecture lxama"):
        open_file(tmp_path)


def test_a_gpu_that_the_build_cannot_use(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if llama_cpp.llama_supports_gpu_offload():
        pytest.skip("this build of llama.cpp has a GPU")
    # As on a machine where torch has one.
    monkeypatch.setattr("pytest_compsec.models.devices.pick_device", lambda requested: "cuda:0")
    arm = make_arm(directory, files=staged(directory, entry=ENTRY))
    assert runtime_device(arm) == "cpu"
    with pytest.raises(LoadError, match=r"'cuda:0' was asked for.*built for the processor alone"):
        runtime_device(dataclasses.replace(arm, device="cuda:0"))


# What was verified is what answers


def test_bytes_that_change_while_they_are_read_are_an_error(directory: Path) -> None:
    checks = iter([None, IntegrityError("m.gguf changed")])

    def recheck() -> None:
        error = next(checks)
        if error is not None:
            raise error

    with pytest.raises(IntegrityError, match="changed"):
        open_file(directory, files=staged(directory, entry=ENTRY, recheck=recheck))


def test_bytes_that_change_afterwards_change_no_answer(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / ENTRY)
    model = open_file(tmp_path)
    before = exact(model.generate(PROMPTS, FEW))
    with (tmp_path / ENTRY).open("r+b") as file:
        file.write(b"\x00" * (tmp_path / ENTRY).stat().st_size)
    assert exact(model.generate(PROMPTS, FEW)) == before


def test_llama_cpp_stays_off_the_screen(
    directory: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = open_file(directory)
    model.generate(["a", "y" * 300], FEW)
    model.perplexities(["a"], ["the other thing"])
    del model
    gc.collect()
    (tmp_path / ENTRY).write_bytes((directory / ENTRY).read_bytes()[:3000])
    with pytest.raises(LoadError):
        open_file(tmp_path)
    print("still here")
    output = capfd.readouterr()
    assert output.out == "still here\n"
    assert output.err == ""


def test_what_c_code_writes_past_the_log_is_kept_off_the_screen(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with silent(llama_cpp):
        os.write(1, b"a banner")
        os.write(2, b"a warning")
    os.write(2, b"later")
    assert capfd.readouterr() == ("", "later")


def test_facts_name_the_runtime_and_its_processor(model: LlamaCppModel) -> None:
    facts = runtime_facts(model.arm)
    assert facts["runtime"] == "llama-cpp"
    assert "CPU" in facts["processor"]
