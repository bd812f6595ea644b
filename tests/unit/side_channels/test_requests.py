"""Requests of a fixed size to each kind of arm; a delay that is really there is really seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_compsec.errors import IntegrityError, MeasurementError
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.llama_cpp_model import LlamaCppModel
from pytest_compsec.models.loaded import TransformersModel
from pytest_compsec.models.served.model import open_served
from pytest_compsec.models.served.pin import EndpointPin, NoFiles, Served
from pytest_compsec.models.weights import WeightReport
from pytest_compsec.side_channels.blocks import matched_pairs, time_blocks
from pytest_compsec.side_channels.requests import requests_of
from pytest_compsec.side_channels.timing import effects_of
from tests.unit.models.served.fake_server import FakeServer, Reply
from tests.unit.tiny_model import make_arm, make_tiny_checkpoint, make_tokenizer

HARMFUL = [f"Do the forbidden thing {at}." for at in range(6)]
BENIGN = [f"Do the delicious thing {at}." for at in range(6)]
EIGHT = "one two three four five six seven eight"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TransformersModel:
    from transformers import AutoModelForCausalLM

    directory = make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))
    module: Any = AutoModelForCausalLM.from_pretrained(str(directory))
    module.eval()
    report = WeightReport(())
    return TransformersModel(
        make_arm(directory), module, make_tokenizer(), "cpu", "float32", report
    )


def test_a_module_answers_exactly_so_many_tokens_whatever_ends_it(
    tiny: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from pytest_compsec.generation import greedy

    produced: list[list[list[int]]] = []
    whole = greedy.greedy_batch

    def watched(*arguments: Any, **named: Any) -> list[list[int]]:
        produced.append(whole(*arguments, **named))
        return produced[-1]

    monkeypatch.setattr(greedy, "greedy_batch", watched)
    requests = requests_of(tiny, 5)
    sizes = requests.sizes([*HARMFUL, *BENIGN])
    assert set(sizes) == {sizes[0]}
    requests.ask(HARMFUL[0])
    assert [len(row) for row in produced[0]] == [5]
    # A model that would end at once is timed over as many tokens.
    end = tiny.tokenizer.eos_token_id
    monkeypatch.setattr(greedy, "likeliest", lambda logits: torch.tensor([end]))
    requests.ask(HARMFUL[1])
    assert produced[1] == [[end] * 5]


def test_a_prompt_without_room_for_the_answer_is_not_used(tiny: TransformersModel) -> None:
    sizes = requests_of(tiny, 8).sizes(["short", "x" * 600])
    assert sizes[0] is not None
    assert sizes[1] is None


def test_logits_that_are_no_numbers_are_not_timed(
    tiny: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from pytest_compsec.generation import greedy
    from pytest_compsec.generation.running import NOT_FINITE

    monkeypatch.setattr(greedy, "likeliest", lambda logits: torch.tensor([NOT_FINITE]))
    requests = requests_of(tiny, 3)
    requests.sizes(HARMFUL)
    with pytest.raises(MeasurementError, match=r"tiny: .*NaN"):
        requests.ask(HARMFUL[0])


def test_a_delay_in_a_real_model_is_seen_by_the_real_clock(tiny: TransformersModel) -> None:
    """A delay far above any load of a shared machine: one class waits, the other does not."""
    requests = requests_of(tiny, 2)
    sizes = requests.sizes([*HARMFUL, *BENIGN])
    pairs = matched_pairs(
        list(zip(HARMFUL, sizes[:6], strict=True)), list(zip(BENIGN, sizes[6:], strict=True)), 6
    )

    def ask(prompt: str) -> None:
        requests.ask(prompt)
        if prompt in HARMFUL:
            time.sleep(0.03)

    times = time_blocks(ask, pairs, delay=30.0, blocks=15, seconds=1e6, seed=0)
    effects = effects_of(times)
    assert effects.effect.lower(0.01) > 5
    assert effects.delayed.lower(0.01) > 5
    assert effects.tests.pvalue < 0.05


class Engine:
    """As far as requests need llama.cpp: every token it is asked for, it writes the end token."""

    ends = frozenset({2})
    positions = 64
    vocabulary = 8

    def __init__(self) -> None:
        self.read_tokens: list[list[int]] = []

    def tokenize(self, text: str) -> list[int]:
        return [1] * len(text.split())

    def begin(self, total: int) -> None:
        self.total = total

    def read(self, tokens: list[int]) -> Any:
        self.read_tokens.append(list(tokens))
        return np.eye(8)[2]


def test_llama_cpp_reads_on_past_its_end_tokens(tmp_path: Path) -> None:
    engine: Any = Engine()
    arm = make_arm(tmp_path, runtime=object())
    model = LlamaCppModel(arm, engine, make_tokenizer(), "cpu", "float32", WeightReport(()))
    requests = requests_of(model, 4)
    prompts = [HARMFUL[0], "word " * 70]
    first, second = requests.sizes(prompts)
    assert first is not None
    assert second is None
    requests.ask(HARMFUL[0])
    assert [len(tokens) for tokens in engine.read_tokens] == [first, 1, 1, 1]
    assert engine.total == first + 4


@pytest.fixture
def server() -> Iterator[FakeServer]:
    pytest.importorskip("openai")
    with FakeServer(text=lambda prompt: EIGHT) as fake:
        yield fake


def served(server: FakeServer) -> Any:
    whole = Served(EndpointPin(server.url, "org/name", None, 0, {}), timeout=5.0)
    files = NoFiles("assistant", whole.pin, lambda: None)
    return open_served(Arm("assistant", None, files, served=whole))


def test_a_server_is_asked_for_answers_that_its_limit_cuts(server: FakeServer) -> None:
    server.text = lambda prompt: "Done." if prompt == BENIGN[0] else EIGHT
    requests = requests_of(served(server), 8)
    assert requests.device == "served"
    # Words, as the pretended server counts them; an answer that ends early is not used.
    assert requests.sizes([*HARMFUL, *BENIGN]) == [5] * 6 + [None] + [5] * 5
    server.requests.clear()
    requests.ask(HARMFUL[0])
    (request,) = server.requests
    assert (request["max_tokens"], request["temperature"]) == (8, 0)
    with pytest.raises(MeasurementError, match="has 1 tokens and not 8"):
        requests.ask(BENIGN[0])
    requests.close()


def test_a_failed_request_is_not_tried_again_as_one_slow_one(server: FakeServer) -> None:
    def busy(request: dict[str, Any], number: int) -> Reply | None:
        return (503, {"error": "busy"}, {}) if number == 0 else None

    server.trouble = busy
    with pytest.raises(MeasurementError, match="503"):
        requests_of(served(server), 8).ask(HARMFUL[0])
    assert len(server.requests) == 1


def test_a_server_that_does_not_count_tokens_is_not_timed(server: FakeServer) -> None:
    def uncounted(request: dict[str, Any], number: int) -> Reply | None:
        message = {"role": "assistant", "content": EIGHT}
        choice = {"index": 0, "finish_reason": "length", "message": message}
        return 200, {"model": "org/name", "choices": [choice]}, {}

    server.trouble = uncounted
    with pytest.raises(MeasurementError, match="does not say how many tokens"):
        requests_of(served(server), 8).sizes(HARMFUL)


def test_another_model_behind_the_server_is_an_integrity_error(server: FakeServer) -> None:
    server.echo, server.model = False, "org/other"
    with pytest.raises(IntegrityError, match="org/other"):
        requests_of(served(server), 8).ask(HARMFUL[0])
