"""Requests to a served model: bounded, retried, and the key goes nowhere else."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

pytest.importorskip("openai")

from pytest_compsec.config.endpoints import EndpointEntry
from pytest_compsec.errors import ConfigError, IntegrityError, MeasurementError, MissingExtraError
from pytest_compsec.generation.settings import GenerationSettings
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.served.model import ServedModel, open_served
from pytest_compsec.models.served.pin import NoFiles, Served
from pytest_compsec.models.served.requests import ChatServer, UnreachableError
from tests.unit.models.served.fake_server import ANSWER, REFUSAL, FakeServer, Reply

KEY = "sk-veryverysecret-0123456789"


def entry_of(url: str, **fields: Any) -> EndpointEntry:
    return EndpointEntry.model_validate({"url": url, "model": "org/name", "retries": 0, **fields})


def model_of(
    server: FakeServer, *, arm: dict[str, Any] | None = None, **fields: Any
) -> ServedModel:
    served = Served.of(entry_of(server.url, **fields))
    files = NoFiles("assistant", served.pin, lambda: None)
    return open_served(Arm("assistant", None, files, served=served, **(arm or {})))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    import openai._base_client

    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, f"of-another-server-{name}")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Account: of-another-server")


def asked_alone(server: FakeServer) -> list[dict[str, Any]]:
    return [one for one in server.requests if one["messages"][-1]["content"] != "Hello"]


def test_every_setting_that_decides_an_answer_is_sent() -> None:
    arm = {"system": "Be kind.", "chat_template_kwargs": {"enable_thinking": False}}
    with FakeServer() as server:
        model = model_of(server, arm=arm, seed=5)
        (answer,) = model.generate(["Hi there"], GenerationSettings(max_new_tokens=17))
    (request,) = asked_alone(server)
    assert request["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi there"},
    ]
    assert (request["temperature"], request["seed"], request["max_tokens"]) == (0, 5, 17)
    assert request["model"] == "org/name"
    assert request["chat_template_kwargs"] == {"enable_thinking": False}
    assert (answer.text, answer.finish, answer.tokens) == (REFUSAL, "stop", 8)


def test_answers_in_the_order_of_the_prompts_and_no_more_at_a_time_than_allowed() -> None:
    both = threading.Barrier(3, timeout=10)  # breaks unless three are under way at once

    def text(prompt: str) -> str:
        if prompt != "Hello":
            both.wait()
        return f"to {prompt}"

    with FakeServer(text=text) as server:
        heard: list[int] = []
        answers = model_of(server, concurrency=3).generate(
            [str(at) for at in range(12)], on_answers=lambda places, _: heard.extend(places)
        )
    assert [answer.text for answer in answers] == [f"to {at}" for at in range(12)]
    assert sorted(heard) == list(range(12))
    assert server.at_once == 3


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_passing_trouble_is_tried_again(status: int) -> None:
    left = [status, status]

    def trouble(request: dict[str, Any], number: int) -> Reply | None:
        if request["messages"][-1]["content"] == "Hello" or not left:
            return None
        return left.pop(), {"error": "busy"}, {}

    with FakeServer(trouble=trouble) as server:
        (answer,) = model_of(server, retries=2).generate(["Hi"])
        assert answer.text == REFUSAL
        left[:] = [status] * 3
        with pytest.raises(MeasurementError, match=f"after 3 tries: HTTP status {status}"):
            model_of(server, retries=2).generate(["Hi"])


def test_a_hanging_server_is_given_up() -> None:
    release = threading.Event()

    def trouble(request: dict[str, Any], number: int) -> Reply | None:
        if request["messages"][-1]["content"] != "Hello":
            release.wait(20)
        return None

    with FakeServer(trouble=trouble) as server:
        with pytest.raises(UnreachableError, match=r"no answer within 0\.2 s"):
            model_of(server, timeout=0.2).generate(["Hi"])
        release.set()


def test_what_was_answered_before_the_server_died_is_handed_on() -> None:
    def trouble(request: dict[str, Any], number: int) -> Reply | None:
        if request["messages"][-1]["content"] == "5":
            threading.Thread(target=server.kill).start()
            return 503, {}, {}
        return None

    heard: list[int] = []
    with FakeServer(trouble=trouble) as server, pytest.raises(MeasurementError) as caught:
        model_of(server, concurrency=1).generate(
            [str(at) for at in range(12)], on_answers=lambda places, _: heard.extend(places)
        )
    assert sorted(heard) == [0, 1, 2, 3, 4]
    assert "org/name at http://127.0.0.1" in str(caught.value)


def test_a_failure_waits_for_what_is_under_way() -> None:
    failed = threading.Event()

    def trouble(request: dict[str, Any], number: int) -> Reply | None:
        prompt = request["messages"][-1]["content"]
        if prompt == "0":
            failed.set()
            return 400, {"error": "too long"}, {}
        if prompt == "1":
            failed.wait(10)
        return None

    heard: list[int] = []
    with FakeServer(trouble=trouble) as server, pytest.raises(MeasurementError, match="too long"):
        model_of(server, concurrency=2).generate(
            [str(at) for at in range(9)], on_answers=lambda places, _: heard.extend(places)
        )
    assert 1 in heard
    assert len(server.prompts) < 9


def test_the_key_goes_to_the_server_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)
    caplog.set_level(logging.DEBUG)

    def trouble(request: dict[str, Any], number: int) -> Reply | None:
        if request["messages"][-1]["content"] == "Hello":
            return None
        return 401, {"error": f"the key {KEY} is wrong"}, {}

    with FakeServer(trouble=trouble) as server:
        model = model_of(server, api_key_env="SERVER_KEY")
        with pytest.raises(MeasurementError, match="Check the key") as caught:
            model.generate(["Hi"])
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    shown = [str(caught.value), repr(caught.value), repr(model), repr(model.server), caplog.text]
    assert not any(KEY in text for text in shown)
    assert "***" in shown[0]


def test_keys_of_other_servers_are_not_sent() -> None:
    with FakeServer() as server:
        model_of(server).generate(["Hi"])
    for headers in server.headers:
        assert not any("of-another-server" in value for value in headers.values())
        assert "authorization" not in headers


def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)
    with FakeServer() as other:
        target = {"Location": f"{other.url}/chat/completions"}
        with FakeServer(trouble=lambda request, number: (307, {}, target)) as server:
            model = model_of(server, api_key_env="SERVER_KEY")
            with pytest.raises(MeasurementError, match="Redirects are not followed"):
                model.generate(["Hi"])
    assert other.requests == []


def test_a_key_that_is_not_set_is_said_before_anything_is_sent() -> None:
    with FakeServer() as server, pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        model_of(server, api_key_env="NO_SUCH_KEY")


def test_the_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with FakeServer() as server, pytest.raises(MissingExtraError, match=r"pytest-compsec\[endp"):
        model_of(server)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"choices": []}'])
def test_what_is_no_completion_is_no_answer(body: bytes) -> None:
    with (
        FakeServer(trouble=lambda request, number: (200, body, {})) as server,
        pytest.raises((MeasurementError, IntegrityError)),
    ):
        model_of(server).generate(["Hi"])


@pytest.mark.parametrize(
    ("logprobs", "first"),
    [
        ("ids", ((7, -0.1), (9, -2.5))),
        ("llama", ((7, -0.1), (9, -2.5))),
        ("texts", ()),  # texts of tokens are no ids
        ("none", ()),
        ("refused", ()),
    ],
)
def test_first_tokens_where_the_server_names_them(logprobs: str, first: Any) -> None:
    with FakeServer(logprobs=logprobs) as server:
        model = model_of(server)
        answers = model.generate(["Hi"]) + model.generate(["Ho"])
    assert [answer.first for answer in answers] == [first, first]
    canaries = len(server.requests) - len(asked_alone(server))
    assert canaries == (3 if logprobs == "refused" else 1), "asked once what the server takes"


def test_another_model_in_the_midst_of_a_run() -> None:
    def text(prompt: str) -> str:
        if prompt == "3":
            server.echo, server.model = False, "org/other"
        return ANSWER

    with (
        FakeServer(text=text) as server,
        pytest.raises(IntegrityError, match=r"asked for 'org/name' and answered as 'org/oth"),
    ):
        model_of(server, concurrency=1).generate([str(at) for at in range(9)])


def test_what_looks_inside_is_told_that_it_cannot() -> None:
    with FakeServer() as server:
        model = model_of(server)
    for inside in ("module", "tokenizer", "weights"):
        with pytest.raises(MeasurementError, match="only its answers can be had"):
            getattr(model, inside)
    with pytest.raises(MeasurementError, match="Its files are not here"):
        _ = model.arm.files.directory


def test_perplexities_from_prompt_log_probabilities() -> None:
    answers = ["one two three four five six seven eight nine", "too short", ""]
    with FakeServer(prompt_logprobs=True) as server:
        found = model_of(server).perplexities(["a b", "a b", "a b"], answers)
    assert found == [pytest.approx(2.718281828**0.5), None, None]
    scored = [one for one in server.requests if "prompt_logprobs" in one]
    assert scored[0]["messages"][-1] == {"role": "assistant", "content": answers[0]}
    assert scored[0]["continue_final_message"] is True
    assert scored[0]["add_generation_prompt"] is False


def test_a_server_without_them_says_so() -> None:
    from pytest_compsec.models.served.likelihood import NoLikelihoodError

    with FakeServer() as server, pytest.raises(NoLikelihoodError, match="prompt_logprobs"):
        model_of(server).perplexities(["a"], ["one two three four five six"])


def test_a_client_of_one_server_is_closed_quietly() -> None:
    with FakeServer() as server:
        client = ChatServer("assistant", Served.of(entry_of(server.url)))
        client.close()
