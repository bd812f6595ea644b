"""What a server says of itself is pinned, and every later word is held against it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")

from pytest_compsec.cli import main
from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import ConfigError, IntegrityError, MeasurementError
from pytest_compsec.models.lock import read_lock
from pytest_compsec.models.pinning import pin
from pytest_compsec.models.served.facts import entry_facts
from pytest_compsec.suite import open_suite
from tests.unit.models.served.fake_server import FakeServer

CONFIG = """\
version: 1
models:
  assistant:
    original:
      endpoint: {url: %s, model: org/name, retries: 0%s}
    compressed:
      awq:
        endpoint: {url: %s, model: org/name, retries: 0}
"""


def project(root: Path, first: FakeServer, second: FakeServer, more: str = "") -> Path:
    path = root / "compsec.yaml"
    path.write_text(CONFIG % (first.url, more, second.url), encoding="utf-8")
    return path


def facts_in_lock(path: Path) -> dict[str, str]:
    endpoint = read_lock(path.with_name("compsec.lock")).models["assistant"].original.endpoint
    assert endpoint is not None
    return dict(endpoint.facts)


def test_what_stays_the_same_is_pinned_and_nothing_else(tmp_path: Path) -> None:
    with FakeServer() as first, FakeServer(fingerprint=None) as second:
        path = project(tmp_path, first, second)
        notes: list[str] = []
        result = pin(path, notify=notes.append)
        assert pin(path).changes == (), "pinned again, nothing has changed"
    assert facts_in_lock(path) == {
        "id": "org/name",
        "owned_by": "vllm",
        "root": "/models/a",
        "system_fingerprint": "fp-1",
    }  # not `created`, which is another one in every reply
    assert any("its bytes were not verified here" in note for note in notes)
    assert any("verified" in line and "no: its bytes" in line for line in result.changes)
    table = "[models.assistant.original.endpoint]"
    beside = '[models.assistant.original.runtime]\nname = "x"\ntools = {}\n'
    edited = (tmp_path / "compsec.lock").read_text().replace(table, beside + table)
    (tmp_path / "other.lock").write_text(edited)
    with pytest.raises(ConfigError, match="nothing but 'dtype' may stand"):
        read_lock(tmp_path / "other.lock")


def test_a_fingerprint_that_changes_is_not_pinned(tmp_path: Path) -> None:
    with FakeServer() as first, FakeServer() as second:
        path = project(tmp_path, first, second)

        def text(prompt: str) -> str:
            first.fingerprint = f"fp-{len(first.requests)}"
            return "Hi"

        first.text = text
        notes: list[str] = []
        pin(path, notify=notes.append)
    assert "system_fingerprint" not in facts_in_lock(path)
    assert any("changes from answer to answer" in note for note in notes)


def other_model(server: FakeServer) -> None:
    server.echo, server.model = False, "org/other"


def other_fingerprint(server: FakeServer) -> None:
    server.fingerprint = "fp-2"


def no_fingerprint(server: FakeServer) -> None:
    server.fingerprint = None


def other_files(server: FakeServer) -> None:
    server.entry = {**server.entry, "root": "/models/b"}


def not_listed(server: FakeServer) -> None:
    server.listed = False


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_model, ["org/name"]),
        (other_fingerprint, ["'fp-1'", "'fp-2'"]),
        (no_fingerprint, ["'fp-1'", "nothing"]),
        (other_files, ["'/models/a'", "'/models/b'"]),
        (not_listed, ["'org/name'"]),
    ],
)
def test_a_server_that_runs_something_else_is_refused_before_it_is_asked(
    tmp_path: Path, change: Callable[[FakeServer], None], named: list[str], capsys: Any
) -> None:
    with FakeServer() as first, FakeServer() as second:
        path = project(tmp_path, first, second)
        pin(path)
        with open_suite(path) as suite:
            pair = suite.pair("assistant-awq")
            assert pair.answers(["Hi"]).original.answers[0].text
            change(second)
            with pytest.raises(IntegrityError):  # the look before a verdict
                pair.recheck()
        asked = len(second.prompts)
        with open_suite(path) as suite, pytest.raises(IntegrityError) as caught:
            suite.pair("assistant-awq").answers(["Hi", "Ho"])
        assert second.prompts[asked:] == []
        assert "assistant-awq" in str(caught.value)
        assert all(name in str(caught.value) for name in named)
        assert main(["verify", "--config", str(path)]) == 1
        assert "CHANGED" in capsys.readouterr().out


def test_pinning_a_server_that_answers_as_another_model(tmp_path: Path) -> None:
    with (
        FakeServer(echo=False, model="org/other") as first,
        FakeServer() as second,
        pytest.raises(IntegrityError, match=r"'org/name' and answered as 'org/other'"),
    ):
        pin(project(tmp_path, first, second))
    assert not (tmp_path / "compsec.lock").exists()


def test_a_revision_is_compared_where_the_server_tells(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    root = f"/cache/models--org--name/snapshots/{commit}"
    with FakeServer(entry={"root": root}) as first, FakeServer() as second:
        pin(project(tmp_path, first, second, f", revision: {commit[:12]!r}"))
        assert facts_in_lock(tmp_path / "compsec.yaml")["revision"] == commit
        with pytest.raises(IntegrityError, match=f"runs revision {commit} .* names feedbeef"):
            pin(project(tmp_path, first, second, ", revision: feedbeef"))
        first.entry = {}
        notes: list[str] = []
        (tmp_path / "compsec.lock").unlink()
        pin(project(tmp_path, first, second, ", revision: feedbeef"), notify=notes.append)
        assert any("'feedbeef' is not compared" in note for note in notes)


@pytest.mark.parametrize(
    ("beside", "fact"),
    [
        (
            {"entry": {"owned_by": "org/name"}, "paths": {"/info": {"model_sha": "abc"}}},
            ("revision", "abc"),
        ),
        (
            {
                "entry": {"owned_by": "library"},
                "fingerprint": "fp_ollama",
                "paths": {"/api/tags": {"models": [{"name": "org/name:latest", "digest": "d1"}]}},
            },
            ("digest", "d1"),
        ),
    ],
)
def test_what_servers_say_beside_the_protocol(
    tmp_path: Path, beside: dict[str, Any], fact: tuple[str, str]
) -> None:
    with FakeServer(**beside) as first, FakeServer() as second:
        path = project(tmp_path, first, second)
        pin(path)
        assert facts_in_lock(path)[fact[0]] == fact[1]
        changed = json.dumps(first.beside).replace(fact[1], "zzz")
        first.beside = json.loads(changed)
        with open_suite(path) as suite, pytest.raises(IntegrityError, match="zzz"):
            suite.pair("assistant-awq").answers(["Hi"])


def test_a_server_whose_list_of_models_fails(tmp_path: Path) -> None:
    """As `transformers serve` where no model was ever downloaded."""
    with FakeServer(listing_fails=True) as first, FakeServer() as second:
        path = project(tmp_path, first, second)
        pin(path)
        assert facts_in_lock(path) == {"system_fingerprint": "fp-1"}
        with open_suite(path) as suite:
            suite.pair("assistant-awq").answers(["Hi"])
        second.listing_fails = True  # this one had a list
        with open_suite(path) as suite, pytest.raises(MeasurementError, match="status 500"):
            suite.pair("assistant-awq").answers(["Hi"])


def test_facts_of_a_llama_cpp_entry_are_those_of_its_file() -> None:
    entry = {"id": "m", "created": 1, "meta": {"n_params": 5, "size": 7, "n_ctx_train": 2048}}
    assert entry_facts(entry) == {"id": "m", "n_params": "5", "size": "7"}
    assert "root" not in entry_facts({"id": "m", "root": "\x1b[31mred"})


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (
            "model: org/name, retries: 0}\n    comp",
            "model: org/new, retries: 0}\n    comp",
            "model",
        ),
        ("retries: 0}\n    comp", "retries: 0, seed: 3}\n    comp", "seed"),
        ("retries: 0}\n    comp", "retries: 0, revision: abc}\n    comp", "revision"),
    ],
)
def test_another_setting_than_the_pinned_one_asks_for_a_new_pin(
    tmp_path: Path, old: str, new: str, what: str
) -> None:
    with FakeServer() as first, FakeServer() as second:
        path = project(tmp_path, first, second)
        pin(path)
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        with open_suite(path) as suite, pytest.raises(IntegrityError, match=f"endpoint's {what}"):
            suite.pair("assistant-awq").answers(["Hi"])


def test_how_a_server_is_asked_decides_no_answer(tmp_path: Path) -> None:
    with FakeServer() as first, FakeServer() as second:
        path = project(tmp_path, first, second)
        pin(path)
        with open_suite(path) as suite:
            before = suite.identity(suite.pair("assistant-awq").original_arm)
        path.write_text(path.read_text().replace("retries: 0", "retries: 1, concurrency: 2"))
        with open_suite(path) as suite:
            arm = suite.pair("assistant-awq").original_arm
            assert suite.identity(arm) == before
            assert arm.served is not None
            moved = dataclasses.replace(arm.served.pin, url="http://127.0.0.1:1/v1")
            assert moved.digest != arm.served.pin.digest


def test_verify_says_what_it_cannot_and_fails_where_it_could_not_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeServer() as first, FakeServer() as second:
        path = project(tmp_path, first, second)
        assert main(["pin", "--config", str(path)]) == 0
        assert main(["verify", "--config", str(path)]) == 0
        assert "assistant is served" in (said := capsys.readouterr().out)
        assert "its bytes were not verified here" in said
        assert main(["list", "--config", str(path)]) == 0
        assert "bytes not verified" in capsys.readouterr().out
    assert main(["verify", "--config", str(path)]) == 1
    assert "could not be compared with the lock" in capsys.readouterr().out
    assert main(["pin", "--config", str(path)]) == 2


def test_a_server_that_is_down_is_not_measured_from_old_answers(tmp_path: Path) -> None:
    with FakeServer() as first, FakeServer() as second:
        path = project(tmp_path, first, second)
        pin(path)
        with open_suite(path, cache_path=tmp_path / "cache.sqlite") as suite:
            suite.pair("assistant-awq").answers(["Hi"])
    with (
        open_suite(path, cache_path=tmp_path / "cache.sqlite") as suite,
        pytest.raises(MeasurementError, match="cannot be reached"),
    ):
        suite.pair("assistant-awq").answers(["Hi"])


def test_commands_that_need_weights_say_so(tmp_path: Path, capsys: Any) -> None:
    with FakeServer() as first, FakeServer() as second:
        path = project(tmp_path, first, second)
        pin(path)
        for command in (
            ["export", "assistant-awq", str(tmp_path / "out")],
            ["repair", "assistant-awq", "--harmful", "harmful", "--benign", "benign",
             "--out", str(tmp_path / "adapter")],
            ["matrix", "assistant"],
        ):  # fmt: skip
            assert main([*command, "--config", str(path)]) == 2
            assert "is served" in capsys.readouterr().err.replace("own (served", "is served")


@pytest.mark.parametrize(
    ("original", "line", "message"),
    [
        ("{endpoint: {url: 'http://host/v1', model: m, api_key_env: KEY}}", 4, "unencrypted"),
        ("{endpoint: {url: 'ftp://host/v1', model: m}}", 4, "must be like http"),
        ("{endpoint: {url: 'http://host/v1', model: m, api_key_env: 'sk-1'}}", 4, "NAME"),
        ("{endpoint: {url: 'http://u:p@host/v1', model: m}}", 4, "committed"),
        ("{endpoint: {url: 'http://host/v1', model: m}, dtype: float32}", 4, "'dtype'"),
        ("{endpoint: {url: 'http://host/v1', model: m}, source: org/x}", 4, "'source'"),
        ("{endpoint: {url: 'http://host/v1', modell: m}}", 4, "did you mean 'model'"),
        ("{endpoint: {url: 'http://host/v1', model: m}}", 3, "nothing can be derived"),
    ],
)
def test_mistakes_in_the_config_are_named_with_their_line(
    tmp_path: Path, original: str, line: int, message: str
) -> None:
    path = tmp_path / "compsec.yaml"
    path.write_text(
        f"version: 1\nmodels:\n  a:\n    original: {original}\n"
        "    compressed: {int8: {quantize: {method: bitsandbytes, bits: 8}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert any(
        f"compsec.yaml:{line}: " in one and message in one for one in str(caught.value).split("\n")
    )


def test_the_header_names_what_is_served(tmp_path: Path) -> None:
    from pytest_compsec.models.served.wording import header_lines

    path = tmp_path / "compsec.yaml"
    path.write_text(CONFIG % ("http://one/v1", "", "http://two/v1"), encoding="utf-8")
    config = load_config(path).config
    lines = list(header_lines(config, ["assistant-awq"]))
    assert [line.split(" as ")[0] for line in lines] == [
        "assistant is served by http://one/v1",
        "assistant-awq is served by http://two/v1",
    ]
    assert all("its bytes were not verified here" in line for line in lines)
    assert list(header_lines(config, [])) == []
