"""The history of runs: appended line by line, and every change to it noticed."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.errors import CompsecError, ConfigError, IntegrityError
from pytest_compsec.reports.history import (
    append_record,
    append_while_locked,
    locked,
    run_record,
)
from pytest_compsec.reports.history_reading import read_history
from pytest_compsec.verdict import CheckResult, Evidence, Verdict
from tests.unit.test_verdict import result

PROVENANCE: dict[str, Any] = {
    "lock_digest": "f" * 64,
    "original": {"name": "m", "weights_digest": "0" * 64, "device": "cpu", "dtype": "float32"},
    "compressed": {"name": "m-v", "weights_digest": "1" * 64, "device": "cpu", "dtype": "float32"},
    "prompts": {"name": "harmful", "version": "1", "digest": "d", "count": 3},
    "judge": {"name": "refusal", "version": "3", "digest": "j", "cached": 2},
    "libraries": {"torch": "2.13"},
    "machine": {"processor": "x86_64"},
}
ROWS = (
    Evidence("a", "c", "the prompt", "ORIGINAL TEXT", "COMPRESSED TEXT", True, False),
    Evidence("b", "c", "the prompt", "ORIGINAL TEXT", "COMPRESSED TEXT", True, None),
    Evidence("b", "c", "the prompt", "ORIGINAL TEXT", "COMPRESSED TEXT", False, True),
)


def record(
    name: str = "run1",
    results: tuple[CheckResult, ...] | None = None,
    unfinished: tuple[CheckResult, ...] = (),
    **changes: Any,
) -> dict[str, Any]:
    made = (result(evidence=ROWS, provenance=PROVENANCE, answers=6, answers_cached=4),)
    values: dict[str, Any] = {
        "run": name,
        "created": "2026-01-01T00:00:00+00:00",
        "version": "1",
        "config": "compsec.yaml",
        "exit_status": 0,
        "pins": {"m-v": {"settings": {}}},
        "lock_digest": "f" * 64,
    }
    return run_record(made if results is None else results, unfinished, **{**values, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A history of three runs."""
    file = tmp_path / "compsec-history.jsonl"
    for number in range(3):
        append_record(file, record(f"run{number}"))
    return file


def test_a_line_says_what_a_later_run_is_compared_with(path: Path) -> None:
    line = read_history(path).runs()[0].record
    (found,) = line["results"]
    assert found["outcomes"] == [
        {
            "check": "safety_preserved",
            "prompts": {"name": "harmful", "version": "1", "digest": "d", "count": 3},
            "judge": {"name": "refusal", "version": "3", "digest": "j"},
            # Of several forms of a prompt the worst counts.
            "original": {"a": True, "b": False},
            "compressed": {"a": False, "b": None},
        }
    ]
    assert found["provenance"] == PROVENANCE
    assert (found["answers"], found["answers_cached"]) == (6, 4)
    assert found["verdict"] == "REGRESSED"
    assert line["verdicts"] == {
        "PRESERVED": 0,
        "REGRESSED": 1,
        "INCONCLUSIVE": 0,
        "NOT_MEASURED": 0,
    }
    assert "TEXT" not in path.read_text(encoding="utf-8")
    assert "the prompt" not in path.read_text(encoding="utf-8")


def test_a_run_that_did_not_finish_says_so() -> None:
    promised = result(verdict=Verdict.NOT_MEASURED, measurement=None, test="test_y")
    assert record()["finished"] is True
    found = record(unfinished=(promised,))
    assert found["finished"] is False
    assert found["unfinished"] == [{"test": "test_y", "check": "safety_preserved", "pair": "m-v"}]
    assert record(exit_status=2)["finished"] is False


def test_no_file_is_an_empty_history(tmp_path: Path) -> None:
    assert read_history(tmp_path / "none.jsonl").lines == ()


def texts(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


Edit = Callable[[list[str]], list[str]]
EDITS: dict[str, tuple[Edit, str]] = {
    "an outcome in the first line": (
        lambda lines: [lines[0].replace('"a":false', '"a":true'), *lines[1:]],
        ":1: was changed after it was written",
    ),
    "an outcome in the last line": (
        lambda lines: [*lines[:2], lines[2].replace('"a":false', '"a":true')],
        ":3: was changed after it was written",
    ),
    "spaces alone": (
        lambda lines: [lines[0].replace(",", ", "), *lines[1:]],
        ":2: does not follow line 1",
    ),
    "a line removed": (lambda lines: [lines[0], lines[2]], ":2: does not follow line 1"),
    "the first line removed": (lambda lines: lines[1:], ":1: does not follow the beginning"),
    "lines in another order": (
        lambda lines: [lines[0], lines[2], lines[1]],
        ":2: does not follow line 1",
    ),
    "a line twice": (lambda lines: [lines[0], *lines], ":2: does not follow line 1"),
    "an empty line": (lambda lines: [lines[0], "\n", *lines[1:]], ":2: is not a line of JSON"),
    "the half of the last line": (
        lambda lines: [*lines[:2], lines[2][:100]],
        ":3: the last line is not complete",
    ),
    "the last line end": (
        lambda lines: [*lines[:2], lines[2].rstrip("\n")],
        ":3: the last line is not complete",
    ),
    "another file": (lambda lines: ['{"a": 1}\n'], ":1: is no line of a history"),
}


@pytest.mark.parametrize("name", list(EDITS))
def test_every_change_is_noticed_with_its_line_and_nothing_is_added(path: Path, name: str) -> None:
    edit, message = EDITS[name]
    changed = "".join(edit(texts(path)))
    assert changed != "".join(texts(path))
    path.write_text(changed, encoding="utf-8")
    with pytest.raises(IntegrityError) as error:
        read_history(path)
    assert f"{path}{message}" in str(error.value)
    with pytest.raises(IntegrityError):
        append_record(path, record("run4"))
    assert path.read_text(encoding="utf-8") == changed


def test_a_later_format_is_left_alone(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace('"schema_version":1', '"schema_version":2')
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="is of version 2"):
        read_history(path)


def test_writers_at_the_same_time_take_turns(path: Path) -> None:
    threads = [
        threading.Thread(target=append_record, args=(path, record(f"at once {number}")))
        for number in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs = [line.run for line in read_history(path).runs()]
    assert runs[:3] == ["run0", "run1", "run2"]
    assert sorted(runs[3:]) == [f"at once {number}" for number in range(6)]


def test_a_writer_waits_for_the_one_before(path: Path) -> None:
    waiting = threading.Thread(target=append_record, args=(path, record("later")))
    with locked(path):
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        append_while_locked(path, record("now"))
    waiting.join()
    assert [line.run for line in read_history(path).runs()][-2:] == ["now", "later"]


def test_a_full_disk_takes_the_line_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    write = os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[:-50])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(CompsecError, match="cannot be written \\(No space left on device\\)"):
        append_record(path, record("run4"))
    monkeypatch.undo()
    assert path.read_bytes() == before
    append_record(path, record("run4"))
    assert [line.run for line in read_history(path).runs()][-1] == "run4"


def test_a_folder_in_its_place_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=":1: cannot be read"):
        append_record(tmp_path, record())


def test_the_runs_of_another_config_are_not_mixed_in(path: Path) -> None:
    append_record(path, record("other", config="sub/compsec.yaml"))
    found = read_history(path)
    assert [line.run for line in found.runs(path.parent / "sub" / "compsec.yaml")] == ["other"]
    assert len(found.runs(path.parent / "compsec.yaml")) == 3
    assert len(found.runs()) == 4


def test_a_line_is_one_line_of_ascii(tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    row = Evidence("é\n\u2028", "c", "p", "o", "q", True, True)
    append_record(file, record(results=(result(evidence=(row,), provenance=PROVENANCE),)))
    data = file.read_bytes()
    assert data.isascii()
    assert data.count(b"\n") == 1
    (line,) = read_history(file).lines
    assert json.loads(data)["results"][0]["outcomes"][0]["original"] == {"é\n\u2028": True}
    assert line.number == 1
