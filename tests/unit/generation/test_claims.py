"""Two processes never generate the same answers at once, and a killed one blocks nobody."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.generation.answers import AnswerSheet, answer_prompts
from pytest_compsec.generation.cache import ResponseCache
from pytest_compsec.generation.claims import RunLedger, claim_path, claimed
from pytest_compsec.generation.settings import Answer, GenerationSettings

PROMPTS = [f"prompt {number}" for number in range(6)]
HOLDER = """
import sys, time
from pathlib import Path
from pytest_compsec.generation.claims import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


class SlowModel:
    """Answers two prompts at a time and writes down which; may break after a batch."""

    def __init__(self, log: Path, *, breaks: bool = False) -> None:
        self._log = log
        self._breaks = breaks

    def generate(
        self,
        prompts: Sequence[str],
        settings: GenerationSettings,
        *,
        on_answers: Callable[[Sequence[int], Sequence[Answer]], None] | None = None,
    ) -> list[Answer]:
        for start in range(0, len(prompts), 2):
            part = prompts[start : start + 2]
            with self._log.open("a", encoding="utf-8") as log:
                log.write("".join(f"{prompt}\n" for prompt in part))
            time.sleep(0.05)
            assert on_answers is not None
            on_answers(range(start, start + len(part)), [Answer(p, 1, "stop") for p in part])
            if self._breaks:
                os.kill(os.getpid(), signal.SIGKILL)
        return [Answer(prompt, 1, "stop") for prompt in prompts]


def ask(folder: Path, *, breaks: bool = False, run: bool = True, progress: Any = None) -> Any:
    cache = ResponseCache(folder / "a.sqlite", ledger=RunLedger(folder / "made") if run else None)
    return answer_prompts(
        identity="a",
        prompts=PROMPTS,
        settings=GenerationSettings(4),
        load=lambda: SlowModel(folder / "log", breaks=breaks),
        cache=cache,
        progress=progress,
    )


def ask_and_tell(folder: Path, breaks: bool, answers: Any) -> None:
    sheet: AnswerSheet = ask(folder, breaks=breaks)
    answers.put((sheet.generated, sheet.cached, [answer.text for answer in sheet.answers]))


def generated(folder: Path) -> list[str]:
    return (folder / "log").read_text(encoding="utf-8").splitlines()


def test_three_processes_generate_every_answer_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    processes = [
        context.Process(target=ask_and_tell, args=(tmp_path, False, answers)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    told = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert sorted(generated(tmp_path)) == PROMPTS
    assert sorted(count for count, _, _ in told) == [0, 0, 6]
    assert all(texts == PROMPTS for _, _, texts in told)
    # None of them is from an earlier run.
    assert [cached for _, cached, _ in told] == [0, 0, 0]


def test_who_comes_after_a_killed_process_does_the_rest(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    process = context.Process(target=ask_and_tell, args=(tmp_path, True, answers))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    sheet = ask(tmp_path)
    assert sheet.generated == 4
    assert sorted(generated(tmp_path)) == PROMPTS
    assert sheet.cached == 0


def test_answers_of_an_earlier_run_count_as_cached(tmp_path: Path) -> None:
    first: AnswerSheet = ask(tmp_path, run=False)
    assert first.cached == 0
    again: AnswerSheet = ask(tmp_path)
    assert (again.generated, again.cached) == (0, len(PROMPTS))


def test_the_claim_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waited = threading.Event()
    entered = threading.Event()

    def enter() -> None:
        with claimed(path, waiting=waited.set):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert waited.wait(30)
    assert not entered.is_set()
    holder.kill()
    holder.wait()
    assert entered.wait(30)
    thread.join()


class Recorder:
    def __init__(self, held: threading.Event) -> None:
        self.events: list[str] = []
        self._held = held

    def wait(self, done: int) -> None:
        self.events.append(f"wait {done}")
        self._held.set()

    def begin(self, done: int) -> None:
        self.events.append(f"begin {done}")

    def advance(self, count: int) -> None:
        self.events.append(f"+{count}")

    def end(self) -> None:
        self.events.append("end")


def test_the_progress_says_that_it_waits_and_ends(tmp_path: Path) -> None:
    waiting = threading.Event()
    recorder = Recorder(waiting)
    asked = threading.Thread(target=lambda: ask(tmp_path, progress=recorder))
    with claimed(claim_path(tmp_path / "a.sqlite", "a")):
        asked.start()
        assert waiting.wait(30)
        cache = ResponseCache(tmp_path / "a.sqlite")
        cache.put_many("a", [(prompt, Answer("there", 1, "stop")) for prompt in PROMPTS])
    asked.join(30)
    assert recorder.events == ["wait 0", "end"]
    assert not (tmp_path / "log").exists()


def test_a_claim_inside_a_claim_does_not_wait(tmp_path: Path) -> None:
    holder = threading.Event()
    done = threading.Event()

    def hold_second() -> None:
        with claimed(tmp_path / "second"):
            holder.set()
            done.wait(30)

    thread = threading.Thread(target=hold_second)
    thread.start()
    assert holder.wait(30)
    with claimed(tmp_path / "first"), claimed(tmp_path / "second"):
        pass  # would never come here if claims were nested
    done.set()
    thread.join()


def test_a_place_without_locks_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with claimed(tmp_path / "file" / "x.lock"):
        pass


@pytest.mark.parametrize("identity", ["a", "b\ud800", "../../x"])
def test_a_claim_file_is_beside_its_cache(identity: str, tmp_path: Path) -> None:
    path = claim_path(tmp_path / "a.sqlite", identity)
    assert path.parent == tmp_path / "a.sqlite.claims"
    assert claim_path(tmp_path / "a.sqlite", "other") != path


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (100, "answering a-int8  3/9  waiting for another process that answers"),
        (30, "3/9 waiting"),
        (5, "3/9 w"),
    ],
)
def test_the_line_says_that_it_waits_in_whatever_room_there_is(width: int, shown: str) -> None:
    from pytest_compsec.generation.progress import TerminalProgress

    lines: list[str] = []
    progress = TerminalProgress(lines.append, "answering a-int8", 9, width=lambda: width)
    progress.wait(3)
    progress.end()
    assert lines == [shown, ""]
