"""The response cache: nothing mixed up, nothing finished lost, never in the way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pytest_compsec.generation.cache import FILE_VERSION, ResponseCache
from pytest_compsec.generation.settings import Answer

YES = Answer("Yes.", 3, "stop")
NO = Answer("", 64, "length", in_reasoning=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "below" / "answers.sqlite"


def test_what_was_put_is_there_for_the_next_run(path: Path) -> None:
    first = ResponseCache(path)
    first.put_many("a", [("q1", YES), ("q2", NO), ("Grüße\0 \ud800", YES)])
    first.close()
    second = ResponseCache(path)
    assert second.get_many("a", ["q2", "new", "q1", "q2", "Grüße\0 \ud800"]) == {
        0: NO,
        2: YES,
        3: NO,
        4: YES,
    }
    assert second.notes == ()


def test_two_identities_never_share_an_entry(path: Path) -> None:
    cache = ResponseCache(path)
    cache.put_many("a", [("q", YES)])
    assert cache.get_many("b", ["q"]) == {}
    cache.put_many("b", [("q", NO)])
    assert cache.get_many("a", ["q"]) == {0: YES}


def test_more_prompts_than_one_query_holds(path: Path) -> None:
    cache = ResponseCache(path)
    prompts = [f"q{number}" for number in range(1234)]
    cache.put_many("a", [(prompt, Answer(prompt, 1, "stop")) for prompt in prompts])
    found = cache.get_many("a", [*prompts, "q1"])
    assert [found[place].text for place in range(1235)] == [*prompts, "q1"]


@pytest.mark.parametrize(
    "edit",
    [
        """UPDATE answers SET answer = replace(answer, 'Yes.', 'I cannot.')""",
        """UPDATE answers SET answer = replace(answer, '"stop"', '"length"')""",
        """UPDATE answers SET identity = 'b'""",
        """UPDATE answers SET prompt = CAST('other' AS BLOB)""",
        """UPDATE answers SET answer = NULL""",
        """UPDATE answers SET checksum = ''""",
        """UPDATE answers SET answer = '{'""",
    ],
)
def test_an_edited_row_is_ignored(path: Path, edit: str) -> None:
    cache = ResponseCache(path)
    cache.put_many("a", [("q", YES)])
    cache.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute(edit).rowcount == 1
    connection.close()
    again = ResponseCache(path)
    assert again.get_many("a", ["q"]) == {}
    assert again.get_many("b", ["q"]) == {}
    again.put_many("a", [("q", YES)])
    assert again.get_many("a", ["q"]) == {0: YES}


def test_an_entry_of_another_model_is_not_believed(path: Path) -> None:
    """Somebody copies the rows of the safe original under the identity of the compressed one."""
    cache = ResponseCache(path)
    cache.put_many("original", [("q", YES)])
    cache.close()
    with sqlite3.connect(path) as connection:
        connection.execute(
            "INSERT INTO answers SELECT 'compressed', prompt_digest, prompt, answer, checksum "
            "FROM answers"
        )
    connection.close()
    assert ResponseCache(path).get_many("compressed", ["q"]) == {}


def test_an_entry_moved_to_another_prompt_is_not_believed(path: Path) -> None:
    cache = ResponseCache(path)
    cache.put_many("a", [("harmless", YES), ("harmful", NO)])
    cache.close()
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE answers SET (answer, checksum) = (SELECT answer, checksum FROM answers "
            "WHERE prompt = CAST('harmless' AS BLOB)) WHERE prompt = CAST('harmful' AS BLOB)"
        )
    connection.close()
    assert ResponseCache(path).get_many("a", ["harmless", "harmful"]) == {0: YES}


@pytest.mark.parametrize("damage", ["garbage", "header", "middle", "cut"])
def test_a_damaged_file_is_moved_aside(path: Path, damage: str) -> None:
    cache = ResponseCache(path)
    cache.put_many("a", [(f"q{n}", Answer("x" * 500, 1, "stop")) for n in range(200)])
    cache.close()
    content = bytearray(path.read_bytes())
    if damage == "garbage":
        content = bytearray(b"this is no database" * 100)
    elif damage == "header":
        content[:16] = b"\xff" * 16
    elif damage == "middle":
        content[4096:12288] = b"\xff" * 8192
    else:
        content = content[: len(content) // 2]
    path.write_bytes(content)

    fresh = ResponseCache(path)
    assert path.with_name("answers.sqlite.corrupt-1").read_bytes() == bytes(content)
    assert len(fresh.notes) == 1
    assert "moved to answers.sqlite.corrupt-1" in fresh.notes[0]
    assert fresh.get_many("a", ["q1"]) == {}
    fresh.put_many("a", [("q1", YES)])
    fresh.close()
    assert ResponseCache(path).get_many("a", ["q1"]) == {0: YES}

    path.write_bytes(b"again" * 1000)
    assert "corrupt-2" in ResponseCache(path).notes[0]


def test_a_file_of_another_version_is_moved_aside(path: Path) -> None:
    ResponseCache(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {FILE_VERSION + 1}")
    connection.close()
    cache = ResponseCache(path)
    assert f"file version {FILE_VERSION + 1}" in cache.notes[0]
    cache.put_many("a", [("q", YES)])
    assert cache.get_many("a", ["q"]) == {0: YES}


def test_a_place_that_cannot_be_written_means_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = ResponseCache(tmp_path / "file" / "answers.sqlite")
    cache.put_many("a", [("q", YES)])
    cache.put_fact("a", "n", 1)
    assert cache.get_many("a", ["q"]) == {}
    assert cache.get_fact("a", "n") is None
    assert len(cache.notes) == 1
    assert "answers are not cached" in cache.notes[0]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_directory_means_no_cache(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    cache = ResponseCache(tmp_path / "answers.sqlite")
    tmp_path.chmod(0o700)
    assert cache.get_many("a", ["q"]) == {}
    assert len(cache.notes) == 1


def test_a_file_that_breaks_in_mid_run_stops_nothing(path: Path) -> None:
    cache = ResponseCache(path)
    cache.put_many("a", [("q", YES)])
    assert cache._connection is not None
    cache._connection.execute("DROP TABLE answers")
    assert cache.get_many("a", ["q"]) == {}
    cache.put_many("a", [("q", YES)])
    assert any("no such table" in note for note in cache.notes)


def test_facts(path: Path) -> None:
    cache = ResponseCache(path)
    value = {"bits": [4.5, None], "name": "ü"}
    cache.put_fact("a", "weights", value)
    assert cache.get_fact("a", "weights") == value
    assert cache.get_fact("b", "weights") is None
    assert cache.get_fact("a", "other") is None
    cache.put_fact("a", "weights", 2)
    assert cache.get_fact("a", "weights") == 2
    cache.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE facts SET value = '3'")
    connection.close()
    assert ResponseCache(path).get_fact("a", "weights") is None


WRITER = """
import sys
from pathlib import Path
from pytest_compsec.generation.cache import ResponseCache
from pytest_compsec.generation.settings import Answer
cache = ResponseCache(Path(sys.argv[1]))
for batch in range(100_000):
    pairs = [(f"{batch}/{n}", Answer("x" * 2000, n, "stop")) for n in range(16)]
    cache.put_many("a", pairs)
    print(batch, flush=True)
"""


@pytest.mark.parametrize("batches", [1, 7, 40])
def test_a_killed_run_loses_nothing_finished(path: Path, batches: int) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) + 1 == batches:
            break
    writer.kill()
    rest = writer.stdout.read().split()
    writer.wait()
    writer.stdout.close()
    if os.name == "posix":
        assert writer.returncode == -signal.SIGKILL
    finished = batches + len(rest)

    cache = ResponseCache(path)
    assert cache.notes == ()
    prompts = [f"{batch}/{n}" for batch in range(finished) for n in range(16)]
    assert len(cache.get_many("a", prompts)) == len(prompts)
    # A batch that was being written is there whole or not at all.
    begun = cache.get_many("a", [f"{finished}/{n}" for n in range(16)])
    assert len(begun) in (0, 16)


def _write_part(path: Path, worker: int) -> None:
    cache = ResponseCache(path)
    for batch in range(20):
        cache.put_many("a", [(f"{worker}/{batch}", Answer(f"{worker}", batch, "stop"))])
    if cache.notes:
        raise SystemExit("; ".join(cache.notes))


def test_several_workers_at_once(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_part, args=(path, number)) for number in range(4)]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
    assert [process.exitcode for process in workers] == [0] * 4
    prompts = [f"{worker}/{batch}" for worker in range(4) for batch in range(20)]
    assert len(ResponseCache(path).get_many("a", prompts)) == 80


def test_a_writer_waits_for_another(path: Path) -> None:
    cache = ResponseCache(path)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    release.start()
    cache.put_many("a", [("q", YES)])
    release.join()
    other.close()
    assert cache.notes == ()
    assert cache.get_many("a", ["q"]) == {0: YES}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_has_a_connection_of_its_own(path: Path) -> None:
    cache = ResponseCache(path)
    cache.put_many("a", [("parent", YES)])
    before = cache._connection
    child = os.fork()
    if child == 0:
        code = 1
        try:
            cache.put_many("a", [("child", YES)])
            code = 0 if cache._connection is not before and not cache.notes else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    cache.put_many("a", [("later", YES)])
    assert set(cache.get_many("a", ["parent", "child", "later"])) == {0, 1, 2}
