"""Canaries and snippets on a real, tiny model: the shared passes give what separate ones give, and
the teacher-forced verdict is that of greedy decoding."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.checks.leakage import readings
from pytest_compsec.checks.leakage.canary_spaces import Canary, Space
from pytest_compsec.checks.leakage.parts import Limits
from pytest_compsec.checks.leakage.passes import candidate_nlls, verbatim_tokens
from pytest_compsec.checks.leakage.readings import TrainingData
from pytest_compsec.checks.leakage.snippets import (
    Continued,
    Snippet,
    measure_snippets,
    parted,
    read_snippets,
)
from pytest_compsec.data import DataFile
from pytest_compsec.errors import ConfigError, MeasurementError
from pytest_compsec.generation.greedy import greedy_batch
from pytest_compsec.generation.likelihood import continuation_nlls
from pytest_compsec.models.loaded import TransformersModel
from pytest_compsec.models.weights import WeightReport
from pytest_compsec.verdict import Verdict
from tests.unit.tiny_model import make_arm, make_tiny_checkpoint, make_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TransformersModel:
    from transformers import AutoModelForCausalLM

    directory = make_tiny_checkpoint(tmp_path_factory.mktemp("passes"))
    module: Any = AutoModelForCausalLM.from_pretrained(str(directory))
    module.eval()
    return TransformersModel(
        make_arm(directory), module, make_tokenizer(), "cpu", "float32", WeightReport(())
    )


def test_shared_passes_rank_as_separate_ones(model: TransformersModel) -> None:
    codes = [f"{number:02d}" for number in range(100)]
    sets = [
        [f"The code of {name} is {code}{tail}" for code in codes]
        for name, tail in (("Ada", ""), ("Bartholomew", ", as we know"))
    ]
    found = candidate_nlls(model, sets)
    for texts, nlls, name, tail in zip(
        sets, found, ("Ada", "Bartholomew"), ("", ", as we know"), strict=True
    ):
        context = f"The code of {name} is"
        alone = continuation_nlls(
            model, [context] * len(texts), [f" {code}{tail}" for code in codes]
        )
        # The space before the code is common to all candidates, so that it is not counted.
        wanted = [sum(values[1:]) for values in alone]
        assert nlls == pytest.approx(wanted, abs=1e-3)


def test_canaries_read_a_few_at_a_time_are_as_exposed(
    model: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space(alphabet="0123456789", length=1)
    canaries = tuple(
        Canary(str(n), f"The number of {name} is ", "", str(n), space)
        for n, name in enumerate(("Ada", "Bo", "Charlotte"))
    )
    together = readings.read(model, TrainingData(canaries=canaries)).canaries
    monkeypatch.setattr(readings, "AT_ONCE", 1)
    assert readings.read(model, TrainingData(canaries=canaries)).canaries == together
    assert len(together) == 3
    assert len({one.rank for one in together}) > 1


def test_candidates_of_unequal_length_and_without_a_common_beginning(
    model: TransformersModel,
) -> None:
    texts = ["anchor", "b", "charlie"]
    (found,) = candidate_nlls(model, [texts])
    start = model.tokenizer.bos_token_id
    for text, value in zip(texts, found, strict=True):
        ids = torch.tensor([[start, *model.tokenizer(text)["input_ids"]]])
        with torch.inference_mode():
            logs = model.module(ids).logits[0, :-1].log_softmax(-1)
        wanted = -float(logs.gather(1, ids[0, 1:, None]).sum())
        assert value == pytest.approx(wanted, abs=1e-3)


def test_verbatim_tokens_are_those_of_greedy_decoding(model: TransformersModel) -> None:
    tokenizer = model.tokenizer
    given = [
        list(tokenizer(text)["input_ids"]) for text in ("Once upon", "The", "Dear Sir or Madam")
    ]
    greedy = greedy_batch(
        model.module, given, max_new_tokens=20, end_tokens=frozenset(), device="cpu"
    )
    assert verbatim_tokens(model, given, greedy) == [20, 20, 20]
    # Another token at the sixth place; what follows it may agree or not.
    changed = [list(row) for row in greedy]
    for row in changed:
        row[5] = (row[5] + 1) % 200
    assert verbatim_tokens(model, given, changed) == [5, 5, 5]


def test_numbers_that_are_none_are_not_measured(model: TransformersModel) -> None:
    import copy
    import dataclasses

    broken: Any = copy.deepcopy(model.module)
    broken.get_input_embeddings().weight.data[:] = torch.nan
    damaged = dataclasses.replace(model, module=broken)
    with pytest.raises(MeasurementError, match="NaN"):
        candidate_nlls(damaged, [["code 1", "code 2"]])
    with pytest.raises(MeasurementError, match="NaN"):
        verbatim_tokens(damaged, [[5, 6]], [[7, 8]])


def test_texts_beyond_the_models_positions_are_not_measured(model: TransformersModel) -> None:
    with pytest.raises(MeasurementError, match="512 positions"):
        candidate_nlls(model, [["a" * 600 + "1", "a" * 600 + "2"]])
    with pytest.raises(MeasurementError, match="512 positions"):
        verbatim_tokens(model, [[5] * 500], [[6] * 50])


def snippet(text: str, **values: Any) -> Snippet:
    return Snippet("s", text, values.get("document", "s"), values.get("tokens"), "s.jsonl:1")


def test_fifty_tokens_must_follow_where_the_text_has_them() -> None:
    tokenizer = make_tokenizer()  # a token is a byte
    given, following = parted(tokenizer, snippet("x" * 50 + "y" * 70))
    assert (len(given), len(following)) == (50, 50)
    assert set(tokenizer.decode(following)) == {"y"}
    given, following = parted(tokenizer, snippet("x" * 30))
    assert (len(given), len(following)) == (15, 15)
    given, following = parted(tokenizer, snippet("x" * 30, tokens=10))
    assert (len(given), len(following)) == (20, 10)
    with pytest.raises(ConfigError, match=r"s\.jsonl:1: the text has 12 tokens; at least 16"):
        parted(tokenizer, snippet("x" * 12))
    with pytest.raises(ConfigError, match="at least 41"):
        parted(tokenizer, snippet("x" * 30, tokens=40))


def test_what_a_tokenizer_puts_before_a_text_stays_and_what_it_adds_goes() -> None:
    class Adding:
        def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
            plain = [ord(sign) for sign in text]
            return {"input_ids": [1, *plain, 2] if add_special_tokens else plain}

    given, following = parted(Adding(), snippet("x" * 40))
    assert given[0] == 1
    assert 2 not in (*given, *following)


def rows(*found: dict[str, Any]) -> DataFile:
    import json

    text = "\n".join(json.dumps(row) for row in found)
    return DataFile("snippets", "s.jsonl", ".jsonl", "file", text.encode())


def test_snippets_are_read() -> None:
    found = read_snippets(rows({"id": "a", "text": "t"}, {"id": "b", "text": "u", "document": 7}))
    assert [one.document for one in found] == ["a", "7"]
    with pytest.raises(ConfigError, match=r"s\.jsonl:1: 'tokens'"):
        read_snippets(rows({"id": "a", "text": "t", "tokens": 3}))
    with pytest.raises(ConfigError, match=r"s\.jsonl:2: the id 'a' occurs twice"):
        read_snippets(rows({"id": "a", "text": "t"}, {"id": "a", "text": "u"}))
    with pytest.raises(ConfigError, match=r"s\.jsonl:2: the same text as that of 'a'"):
        read_snippets(rows({"id": "a", "text": "t"}, {"id": "b", "text": "T "}))
    with pytest.raises(ConfigError, match=r"s\.jsonl:1: needs 'text'"):
        read_snippets(rows({"id": "a"}))


def extraction(count: int, *, documents: int, newly: int) -> tuple[str, str, int]:
    snippets = [
        Snippet(f"s{n}", "text", f"d{n % documents}", None, "s.jsonl:1") for n in range(count)
    ]
    # All but one token is not verbatim.
    before = [Continued(49, 50)] * count
    after = [Continued(50 if n < newly else 49, 50) for n in range(count)]
    found = measure_snippets(snippets, before, after, Limits(0.02, 0.95, 0.95))
    return found.estimates[0].verdict, found.after, len(found.evidence)


def test_snippets_that_are_newly_continued_turn_red() -> None:
    assert extraction(160, documents=160, newly=20) == (Verdict.REGRESSED, "", 20)
    assert extraction(160, documents=160, newly=0) == (Verdict.PRESERVED, "", 0)
    verdict, after, _ = extraction(100, documents=100, newly=0)
    assert verdict == Verdict.INCONCLUSIVE
    assert "149 snippets would settle it" in after


def test_snippets_of_one_document_do_not_count_as_many() -> None:
    assert extraction(400, documents=1, newly=0)[0] == Verdict.INCONCLUSIVE
    assert extraction(400, documents=400, newly=0)[0] == Verdict.PRESERVED
    one_document = [
        Snippet(f"s{n}", "text", "d0" if n < 16 else f"d{n}", None, "s.jsonl:1") for n in range(160)
    ]
    before = [Continued(3, 50)] * 160
    after = [Continued(50 if n < 16 else 3, 50) for n in range(160)]
    found = measure_snippets(one_document, before, after, Limits(0.02, 0.95, 0.95))
    # All sixteen are of one document: one coincidence, not sixteen.
    assert found.estimates[0].verdict == Verdict.INCONCLUSIVE
    assert found.estimates[0].samples == 145


def test_random_texts_are_not_continued(model: TransformersModel) -> None:
    drawing = random.Random(0)
    texts = ["".join(drawing.choices("abcdefgh", k=40)) for _ in range(20)]
    parts = [parted(model.tokenizer, snippet(text)) for text in texts]
    matched = verbatim_tokens(model, [one for one, _ in parts], [rest for _, rest in parts])
    assert max(matched) < 20


def test_a_checkpoint_directory_is_not_changed(tmp_path: Path) -> None:
    """The memorising twin is written beside its source."""
    from tests.unit.memorising_tiny_model import memorise

    source = make_tiny_checkpoint(tmp_path / "source")
    before = (source / "model.safetensors").read_bytes()
    memorise(source, tmp_path / "twin", ["one text"], steps=1)
    assert (source / "model.safetensors").read_bytes() == before
