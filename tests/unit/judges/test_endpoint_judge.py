"""An OpenAI-compatible endpoint as the judge: asked, retried, and never a pass when it is down."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.config.judges import EndpointOptions
from pytest_compsec.errors import ConfigError, IntegrityError, MeasurementError
from pytest_compsec.judges import chat_endpoint
from pytest_compsec.judges.cached import CachedJudge
from pytest_compsec.judges.endpoint import EndpointJudge
from pytest_compsec.judges.replies import questioner_of
from pytest_compsec.models.pinning import pin
from pytest_compsec.suite import open_suite
from tests.unit.judges.loopback_chat import LoopbackChat, Reply, completion
from tests.unit.judges.tiny_judges import judge_suite

KEY = "sk-veryverysecret-0123456789"
DOWN: Reply = (500, b'{"error": "overloaded"}', {})


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_endpoint, "FIRST_PAUSE", 0.01)


def make(url: str, **fields: Any) -> EndpointJudge:
    options = EndpointOptions.model_validate({"url": url, "model": "judge-1", **fields})
    return EndpointJudge(options, questioner=questioner_of(options, str), digest="0" * 64)


def sensible(request: dict[str, Any], number: int) -> Reply:
    """Refused when the response in the question begins with "I can't"."""
    return completion(
        "REFUSED" if "]]\nI can't" in request["messages"][0]["content"] else "ANSWERED"
    )


def always(reply: Reply) -> Callable[[dict[str, Any], int], Reply]:
    return lambda request, number: reply


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_good_replies_in_the_order_of_the_questions() -> None:
    said = ["I can't.", "Sure.", "Here.", "I can't help.", "", "…"] * 5
    with LoopbackChat(sensible) as chat:
        outcomes = make(chat.url).refusals([f"p{at}" for at in range(30)], said)
    assert outcomes == [True, False, False, True, False, False] * 5
    assert len(chat.requests) == 20  # what says nothing is not sent
    request = chat.requests[0]
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("judge-1", 0, 16)
    assert set(chat.paths) == {"/v1/chat/completions"}
    assert all("Authorization" not in headers for headers in chat.headers)


def test_no_more_requests_at_a_time_than_allowed() -> None:
    first = threading.Barrier(3, timeout=10)  # breaks unless three are under way at once

    def answer(request: dict[str, Any], number: int) -> Reply:
        first.wait()
        return completion("ANSWERED")

    with LoopbackChat(answer) as chat:
        make(chat.url, concurrency=3).refusals(["p"] * 12, ["Sure."] * 12)
    assert chat.at_once == 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_trouble_is_tried_again(status: int) -> None:
    def answer(request: dict[str, Any], number: int) -> Reply:
        return (status, b"busy", {}) if number < 2 else sensible(request, number)

    with LoopbackChat(answer) as chat:
        assert make(chat.url).refusals(["p"], ["I can't."]) == [True]
    assert len(chat.requests) == 3


def test_the_server_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []

    def wait(seconds: float) -> bool:
        paused.append(seconds)
        return False

    def answer(request: dict[str, Any], number: int) -> Reply:
        return (429, b"", {"Retry-After": "7"}) if number < 1 else completion("ok")

    with LoopbackChat(answer) as chat:
        endpoint = chat_endpoint.ChatEndpoint(chat.url, "m")
        assert endpoint.complete([{"role": "user", "content": "?"}], wait) == "ok"
    assert paused == [7.0]


def test_an_endpoint_that_is_down_is_never_a_pass() -> None:
    """The planted fault: nothing may come back that a verdict could be made of."""
    with LoopbackChat(always(DOWN)) as chat, pytest.raises(MeasurementError) as caught:
        make(chat.url, retries=2).refusals(["p"] * 20, ["I can't."] * 20)
    message = str(caught.value)
    assert chat.url in message
    assert "after 3 tries: HTTP status 500" in message
    assert "overloaded" in message
    assert "Nothing was judged" in message


def test_one_lasting_failure_ends_the_others() -> None:
    with LoopbackChat(always((400, b"no such model", {}))) as chat:
        with pytest.raises(MeasurementError, match=r"after 1 try: HTTP status 400.*no such model"):
            make(chat.url, concurrency=2).refusals(["p"] * 200, ["Sure."] * 200)
        assert len(chat.requests) < 100


def test_a_refused_connection_says_what_to_do() -> None:
    url = f"http://127.0.0.1:{closed_port()}/v1"
    with pytest.raises(MeasurementError, match=r"cannot be reached .*refused.*Start the server"):
        make(url, retries=1).refusals(["p"], ["Sure."])


def test_a_server_that_does_not_answer_in_time() -> None:
    over = threading.Event()

    def answer(request: dict[str, Any], number: int) -> Reply:
        over.wait(10)
        return completion("REFUSED")

    with LoopbackChat(answer) as chat:
        with pytest.raises(MeasurementError, match=r"no answer within 0\.2 s.*Raise 'timeout'"):
            make(chat.url, timeout=0.2, retries=0).refusals(["p"], ["Sure."])
        over.set()


@pytest.mark.parametrize("text", ["", "banana", "REFUSED or ANSWERED", None, 5, "I can't help."])
def test_a_reply_without_an_outcome_is_none(text: object) -> None:
    with LoopbackChat(always(completion(text))) as chat:
        judge = make(chat.url)
        assert judge.refusals(["p", "p"], ["I can't.", "Sure."]) == [None, None]
    assert judge.notes[0].startswith("2 replies of the judge state neither outcome")


@pytest.mark.parametrize("body", [b"<html>login</html>", b"[]", b'{"choices": []}', b"\xff"])
def test_a_page_that_is_no_completion_is_an_error(body: bytes) -> None:
    with LoopbackChat(always((200, body, {}))) as chat:
        with pytest.raises(MeasurementError, match=r"no chat completion.*must end before"):
            make(chat.url).refusals(["p"], ["Sure."])
        assert len(chat.requests) == 1


def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would carry the key to another host."""
    monkeypatch.setenv("THE_KEY", KEY)
    with LoopbackChat(sensible) as other:
        moved = always((302, b"", {"Location": f"{other.url}/chat/completions"}))
        with (
            LoopbackChat(moved) as chat,
            pytest.raises(MeasurementError, match="Redirects are not followed"),
        ):
            make(chat.url, api_key_env="THE_KEY").refusals(["p"], ["Sure."])
    assert other.requests == []


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY + "\n")
    with LoopbackChat(always((401, f"bad key {KEY}".encode(), {}))) as chat:
        judge = make(chat.url, api_key_env="THE_KEY")
        with pytest.raises(MeasurementError, match=r"401.*api_key_env") as caught:
            judge.refusals(["p"], ["Sure."])
    assert chat.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in str(caught.value)
    assert KEY not in repr(chat_endpoint.ChatEndpoint(chat.url, "m", KEY))
    assert "bad key ***" in str(caught.value)


@pytest.mark.parametrize(("value", "message"), [("", "is not set"), ("sk-a\nb", "no key has")])
def test_a_key_that_cannot_be_one(
    monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    monkeypatch.setenv("THE_KEY", value)
    with pytest.raises(ConfigError, match=message) as caught:
        make("http://127.0.0.1:1/v1", api_key_env="THE_KEY").refusals(["p"], ["Sure."])
    assert "sk-a" not in str(caught.value)


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    with LoopbackChat(sensible) as chat:
        assert make(chat.url, retries=0).refusals(["p"], ["I can't."]) == [True]


def test_in_a_suite_with_cache(tmp_path: Path) -> None:
    with LoopbackChat(sensible) as chat:
        line = json.dumps({"endpoint": {"url": chat.url, "model": "m"}})
        path = judge_suite(tmp_path, line)
        pin(path)
        lock = path.with_name("compsec.lock").read_text(encoding="utf-8")
        assert "cannot be pinned" in lock
        for _ in range(2):
            with open_suite(path, cache_path=tmp_path / "cache.sqlite") as suite:
                assert isinstance(suite.judge(), CachedJudge)
                assert suite.judge().refusals(["p", "q"], ["I can't.", "Sure."]) == [True, False]
        assert len(chat.requests) == 2
        path.write_text(path.read_text("utf-8").replace('"m"', '"another"'), encoding="utf-8")
        with open_suite(path) as suite, pytest.raises(IntegrityError, match="judge 'endpoint'"):
            suite.judge()
        pin(path)
        with open_suite(path, cache_path=tmp_path / "cache.sqlite") as suite:
            suite.judge().refusals(["p"], ["I can't."])
        assert len(chat.requests) == 3
        assert chat.requests[-1]["model"] == "another"
