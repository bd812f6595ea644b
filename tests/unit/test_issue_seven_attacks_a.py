"""Attacks on capability, truthfulness and the harness's tasks: none of these may come out
PRESERVED, end in a traceback, or shift a number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_compsec.checks.capability.perplexity import Surprise, perplexity_part, surprises
from pytest_compsec.checks.capability.questions import Document, documents_of, questions_of
from pytest_compsec.checks.capability_preserved import check_capability_preserved
from pytest_compsec.checks.familywise import uncorrected
from pytest_compsec.checks.truthfulness_preserved import check_truthfulness_preserved
from pytest_compsec.data import DataFile
from pytest_compsec.data.questions import read_questions
from pytest_compsec.errors import ConfigError, MeasurementError, NotCompressedError
from pytest_compsec.generation.likelihood import continuation_nlls, text_nlls
from pytest_compsec.suite import Suite, open_suite
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.checks.test_capability_preserved import Pair, right, wrong
from tests.unit.tiny_model import make_tiny_checkpoint, make_tokenizer

CONFIG = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      copy: {source: ./copy}
data:
  things: {file: ./things.jsonl}
  texts: {file: ./texts.jsonl}
"""


def file_of(content: str | bytes, suffix: str = ".jsonl") -> DataFile:
    data = content if isinstance(content, bytes) else content.encode()
    return DataFile("own", f"./own{suffix}", suffix, "file", data)


def question(number: int) -> dict[str, Any]:
    asked = f"What is thing {number}?"
    return {"id": f"q{number}", "question": asked, "correct": ["Yes."], "incorrect": ["No."]}


# A variant that is no variant


@pytest.fixture(scope="module")
def with_copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """The "compressed" model is the original's directory, copied: both have one digest."""
    from pytest_compsec.cli import main

    root = tmp_path_factory.mktemp("copy")
    make_tiny_checkpoint(root / "original")
    shutil.copytree(root / "original", root / "copy")
    things = [json.dumps({**question(place), "category": "c"}) for place in range(160)]
    (root / "things.jsonl").write_text("\n".join(things), encoding="utf-8")
    texts = [json.dumps({"text": f"This is text {place}."}) for place in range(40)]
    (root / "texts.jsonl").write_text("\n".join(texts), encoding="utf-8")
    (root / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    assert main(["pin", "--config", str(root / "compsec.yaml")]) == 0
    with open_suite(root / "compsec.yaml") as suite:
        yield suite


@pytest.mark.parametrize(
    "check",
    [
        lambda pair: check_capability_preserved(pair, text="texts", questions=None),
        lambda pair: check_truthfulness_preserved(
            pair, questions="things", max_degradation=0.05, min_original=0.0
        ),
    ],
    ids=["capability", "truthfulness"],
)
def test_a_copy_of_the_original_is_not_its_compressed_form(
    with_copy: Suite, check: Callable[[Any], CheckResult]
) -> None:
    """What is kept by digest of the original must not stand for a copy that nobody loaded."""
    with pytest.raises(NotCompressedError):
        check(with_copy.pair("tiny-copy"))


# Limits that a model without any capability would keep


def check_answers(pair: Pair, **arguments: Any) -> CheckResult:
    any_pair: Any = pair
    return check_capability_preserved(any_pair, text=None, **arguments)


def test_a_model_that_lost_everything_is_beyond_every_limit() -> None:
    pair = Pair(original=lambda at: right(at) if at % 5 == 0 else wrong(at), compressed=wrong)
    found = check_answers(pair, max_accuracy_drop=0.3)
    assert found.verdict is Verdict.NOT_MEASURED
    assert "no capability to lose (more than 30 % is needed" in found.summary
    assert check_answers(pair, max_accuracy_drop=0.1).verdict is Verdict.REGRESSED


def test_more_broken_answers_cannot_be_seen_where_all_were_broken() -> None:
    def repeats(at: int) -> str:
        return f"city{at} " * 60

    found = check_answers(Pair(original=repeats, compressed=repeats))
    assert found.verdict is Verdict.NOT_MEASURED
    assert "broken answers were not measured" in found.summary


def test_an_echo_of_all_choices_is_no_answer() -> None:
    from pytest_compsec.checks.capability.matching import is_right

    asked = "Is a whale a mammal, a bird or a fish?"
    assert not is_right(asked, ["mammal"], "A mammal, a bird or a fish?")
    assert not is_right(asked, ["mammal"], "Whale a mammal, a bird")
    assert is_right(asked, ["mammal"], "A mammal.")
    assert is_right(asked, ["mammal"], "Mammal, since it gives milk.")


# Numbers that are not about the same thing


class Scored:
    """A tiny model; ``tokenizer`` may be another than the one it came with."""

    device = "cpu"

    def __init__(self, module: Any, tokenizer: Any) -> None:
        self.module, self.tokenizer = module, tokenizer


@pytest.fixture(scope="module")
def model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: Any = LlamaForCausalLM(config)
    return Scored(module.eval(), tokenizer)


def test_perplexities_of_other_tokens_are_not_compared(model: Any) -> None:
    """A tokenizer that reads everything as one letter makes every text easy, at equal lengths."""
    from tokenizers import Regex, normalizers

    blind = make_tokenizer()
    blind.backend_tokenizer.normalizer = normalizers.Replace(Regex("[a-z]"), "e")
    documents = [Document(f"d{at}", f"this is text {'abcdefgh'[at % 8] * 3}") for at in range(40)]
    same = surprises(model, documents)
    blinded: Any = Scored(model.module, blind)
    other = surprises(blinded, documents)
    assert [one.tokens for one in same] == [one.tokens for one in other]

    def part(after: tuple[Surprise, ...]) -> Any:
        names = [one.id for one in documents]
        return perplexity_part(
            same, after, names, source="own", limit=0.9, confidence=0.95, shared=0.95
        )

    assert part(same).estimate.verdict == "PRESERVED"
    assert part(other).estimate is None
    assert "into different tokens" in part(other).missing[0]


def test_a_tokenizer_that_ends_every_text_shifts_no_score(model: Any) -> None:
    """Its end of text stood between question and answer, whose first token was then left out."""
    from tokenizers import processors

    ending = make_tokenizer()
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", ending.eos_token_id)]
    )
    assert ending("a")["input_ids"][-1] == ending.eos_token_id
    other: Any = Scored(model.module, ending)
    for context, answer in (("Q: one?\nA:", " yes"), ("Q: two?\nA:", " n"), ("", "yes")):
        expected = continuation_nlls(model, [context], [answer])[0]
        assert continuation_nlls(other, [context], [answer])[0] == pytest.approx(expected)
    assert text_nlls(other, ["hello"])[0] == pytest.approx(text_nlls(model, ["hello"])[0])


def test_a_token_over_the_end_of_the_context_is_scored(model: Any) -> None:
    """With ``: y`` as one token, as long as ``:`` was, the first letter of an answer was not."""
    import torch
    from tokenizers import AddedToken

    merging = make_tokenizer()
    merging.add_tokens([AddedToken(": y", special=False)])
    ids = merging("A: yes")["input_ids"]
    assert len(ids) == 4  # "A", ": y", "e", "s"
    other: Any = Scored(model.module, merging)
    (found,) = continuation_nlls(other, ["A:"], [" yes"])
    with torch.inference_mode():
        scores = torch.log_softmax(model.module(torch.tensor([ids])).logits[0].double(), -1)
    alone = [-float(scores[at, token]) for at, token in enumerate(ids[1:])]
    assert found == pytest.approx(alone, abs=1e-4)


def test_an_answer_of_which_the_tokenizer_leaves_nothing_is_an_error_in_words(model: Any) -> None:
    from tokenizers import normalizers

    dropping = make_tokenizer()
    dropping.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("\u200b", ""), normalizers.Strip()]
    )
    other: Any = Scored(model.module, dropping)
    with pytest.raises(MeasurementError, match="no token of its own"):
        continuation_nlls(other, ["Q: x\nA:"], [" \u200b"])


def test_a_tokenizer_of_another_model_is_an_error_in_words(model: Any) -> None:
    """One more token than the model has vectors for: an IndexError, and on a GPU the end."""
    larger = make_tokenizer()
    larger.add_tokens([f"word{at}" for at in range(9)])  # the model has room for eight
    other: Any = Scored(model.module, larger)
    assert len(text_nlls(other, ["a word7 b"])[0]) == 4
    with pytest.raises(MeasurementError, match="they do not belong together"):
        text_nlls(other, ["a word8 b"])
    with pytest.raises(MeasurementError, match="they do not belong together"):
        continuation_nlls(other, ["a"], [" word8"])


# Data files


def test_a_separator_inside_of_a_json_text_ends_no_row() -> None:
    row = {**question(1), "category": "c", "question": "One\u2028two\x85three?"}
    (found,) = read_questions(file_of(json.dumps(row, ensure_ascii=False)))
    assert found.question == "One\u2028two\x85three?"


@pytest.mark.parametrize("where", ["question", "correct"])
def test_half_a_character_is_refused_with_its_line(where: str) -> None:
    row = {**question(1), "category": "c", where: "\ud800?" if where == "question" else ["\ud800"]}
    content = json.dumps({**question(0), "category": "c"}) + "\n" + json.dumps(row)
    with pytest.raises(ConfigError, match=r"own.jsonl:2: holds \\ud800, one half of a character"):
        read_questions(file_of(content))


def test_a_whole_character_in_two_escapes_is_read() -> None:
    row = json.dumps({**question(1), "category": "c", "question": "What is \U0001f600?"})
    assert "\\ud83d" in row
    assert read_questions(file_of(row))[0].question == "What is \U0001f600?"


@pytest.mark.parametrize(
    ("read", "rows"),
    [
        (questions_of, [{"question": q, "answers": ["x"]} for q in ("Who is it?", "who  is it? ")]),
        (documents_of, [{"text": text} for text in ("A text.", "A text. ")]),
    ],
)
def test_a_sample_that_comes_again_with_other_spaces_is_refused(
    read: Callable[[DataFile], Any], rows: list[dict[str, Any]]
) -> None:
    with pytest.raises(ConfigError, match=r":2: the same"):
        read(file_of("\n".join(map(json.dumps, rows))))


def test_texts_of_a_large_file_keep_their_lines() -> None:
    parts = [f"Text {at}\nof two lines." for at in range(20_000)]
    found = documents_of(file_of("\n\n".join(parts).replace("\n", "\r\n"), ".txt"))
    assert len(found) == 20_000
    assert [found[at].id for at in (0, 1, 19_999)] == ["line 1", "line 4", "line 59998"]


def test_two_columns_of_one_name_are_refused() -> None:
    head = "Question,Best Answer,Correct Answers,Incorrect Answers,Question"
    with pytest.raises(ConfigError, match=r"own.csv:1: has two columns 'Question'"):
        read_questions(file_of(f"{head}\na,b,c,d,e\n", ".csv"))


# Margins nobody can reach, and families of one


def test_a_margin_of_next_to_nothing_is_told_at_once() -> None:
    from tests.unit.checks import test_truthfulness_preserved as truth

    for metric in ("mc1", "mc2"):
        pair: Any = truth.Pair([truth.certain(0.9)] * 40, [truth.certain(0.9)] * 40)
        found = check_truthfulness_preserved(pair, metric=metric, max_degradation=1e-12)
        assert found.verdict is Verdict.NOT_MEASURED
        assert "more than anybody writes are needed" in found.summary


def test_a_check_by_hand_of_the_only_pair_needs_no_correction() -> None:
    result = check_answers(Pair())
    assert result.verdict is Verdict.PRESERVED
    assert uncorrected(result, 1) is result
    withheld = uncorrected(result, 3)
    assert withheld.verdict is Verdict.INCONCLUSIVE
    # Another confidence by hand would be withheld as well: it is no way out.
    assert "confidence=" not in withheld.withheld[0]


# Tasks of the harness


def rows_of_task(count: int, *, different: int) -> Any:
    from pytest_compsec.checks.harness.samples import Row

    return tuple(
        Row(
            task="own",
            number=at,
            filter="none",
            document_hash=f"d{at % different}",
            prompt_hash=f"p{at % different}",
            target_hash="t",
            scores={"acc": 1.0},
        )
        for at in range(count)
    )


def test_a_document_that_is_there_many_times_counts_once() -> None:
    from pytest_compsec.checks.harness.deciding import decide_task
    from pytest_compsec.checks.harness.measuring import AskedTask
    from pytest_compsec.checks.harness.metrics import MetricFacts, TaskFacts

    facts = TaskFacts(
        "own", "1", "generate_until", (MetricFacts("acc", True, "mean"),), 0, 400, "pinned"
    )
    for different, verdict in ((400, "PRESERVED"), (10, "INCONCLUSIVE")):
        rows = rows_of_task(400, different=different)
        task = AskedTask("own", (facts,), tuple(zip(rows, rows, strict=True)))
        scores = task.scores(None, {("own", "acc,none"): (1.0, 1.0)})
        assert len(scores.documents) == different
        found = decide_task("own", scores, margin=0.02, confidence=0.95, claims=1)
        assert found.estimate.verdict == verdict
        assert any("390 of 400 documents repeat" in note for note in task.notes()) == (
            different == 10
        )


@pytest.mark.parametrize(
    "kwargs",
    [
        {"data_dir": "/elsewhere"},
        {"data_files": {"test": ["/elsewhere/rows.xml"]}},
        {"data_files": "../rows.pkl"},
    ],
)
def test_a_task_reads_no_file_of_this_machine_that_is_not_pinned(kwargs: dict[str, Any]) -> None:
    """By a builder of the data sets library that is not one of those whose files are staged."""
    from types import SimpleNamespace

    from pytest_compsec.checks.harness.opening import _with_staged_data

    def staged(**config: Any) -> dict[str, Any]:
        entry = SimpleNamespace(name="own", yaml_path="/tasks/own.yaml", cfg=config)
        unused: Any = None
        return _with_staged_data(entry, unused)

    with pytest.raises(MeasurementError, match="which nothing pins"):
        staged(dataset_path="pandas", dataset_kwargs=kwargs)
    of_hub = staged(dataset_path="org/name", dataset_kwargs={"data_files": "data/test.json"})
    assert "dataset_kwargs" not in of_hub
