"""Workers of pytest-xdist, real processes: their GPUs, their pairs, their crashes, what they share.

The GPUs are faked by an ``nvidia-smi`` on the path; no test here needs one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.conftest import Project

FIRST = "GPU-11111111-d33d-2b2c-524d-9e3d8d2b8a77"
SECOND = "GPU-22222222-d33d-2b2c-524d-9e3d8d2b8a77"
#: Written where pytest imports it first: nothing of ours or of torch's has run by then.
CONFTEST = """\
import json, os, sys

def pytest_configure(config):
    worker = getattr(config, "workerinput", {}).get("workerid")
    if worker:
        names = ("CUDA_VISIBLE_DEVICES", "COMPSEC_GPU_SHARE", "OMP_NUM_THREADS")
        facts = {name: os.environ.get(name) for name in names}
        facts |= {"worker": worker, "torch": "torch" in sys.modules}
        with open("workers.jsonl", "a") as file:
            file.write(json.dumps(facts) + "\\n")

def pytest_runtest_setup(item):
    worker = os.environ["PYTEST_XDIST_WORKER"]
    with open("ran.log", "a") as file:
        file.write(f"{worker} {item.nodeid}\\n")
"""
#: The machine's torch is built for processors: it would use no GPU.
PRETEND = """\
import pytest_compsec.worker_devices as devices
devices._torch_version = lambda: "2.13.0"
"""
PAIRS = """
@safety_preserved(prompts="own")
def test_one(model_pair): pass

@safety_preserved(prompts="own")
def test_two(model_pair): pass

def test_plain(): pass
def test_other(): pass
"""


@pytest.fixture
def mode() -> str:
    return "n2"


@pytest.fixture
def gpus(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A machine with two GPUs."""
    program = project.path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\necho 'GPU 0: A (UUID: {FIRST})'\necho 'GPU 1: A (UUID: {SECOND})'\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    (project.path / "pretend_gpus.py").write_text(PRETEND, encoding="utf-8")
    (project.path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    return project


def workers(project: Project) -> dict[str, dict[str, Any]]:
    lines = (project.path / "workers.jsonl").read_text(encoding="utf-8").splitlines()
    return {facts["worker"]: facts for facts in map(json.loads, lines)}


def ran(project: Project) -> list[list[str]]:
    lines = (project.path / "ran.log").read_text(encoding="utf-8").splitlines()
    return [line.split(" ", 1) for line in lines]


def of_devices(project: Project) -> list[str | None]:
    return [facts["CUDA_VISIBLE_DEVICES"] for _, facts in sorted(workers(project).items())]


def test_auto_starts_a_worker_on_each_gpu_before_torch_is_imported(gpus: Project) -> None:
    gpus.test_file(PAIRS)
    result = gpus.run("-p", "pretend_gpus", "-nauto")
    assert of_devices(gpus) == [FIRST, SECOND]
    assert not any(facts["torch"] for facts in workers(gpus).values())
    text = result.stdout.str()
    assert "compsec: 2 workers: one for each visible GPU" in text
    assert "gw0 on GPU GPU-11111111…, gw1 on GPU GPU-22222222…" in text
    # Both tests of a pair ran on one worker, and every test once.
    hosts: dict[str, set[str]] = {}
    for worker, test in ran(gpus):
        if "[" in test:
            hosts.setdefault(test.partition("[")[2], set()).add(worker)
    assert [len(found) for found in hosts.values()] == [1, 1]
    assert len(ran(gpus)) == len({test for _, test in ran(gpus)}) == 6


def test_the_callers_list_decides(gpus: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2,GPU-9,GPU-1")
    gpus.test_file("def test_plain(): pass")
    gpus.run("-p", "pretend_gpus", "-nauto")
    assert of_devices(gpus) == ["GPU-2"]


def test_the_users_own_number_and_environments_win(
    gpus: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.test_file("def test_plain(): pass")
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "1")
    gpus.run("-p", "pretend_gpus", "-nauto")
    assert of_devices(gpus) == [FIRST]
    (gpus.path / "workers.jsonl").unlink()
    given = "popen//env:CUDA_VISIBLE_DEVICES=GPU-1//env:COMPSEC_GPU_SHARE=1/9"
    gpus.pytester.runpytest_subprocess(
        *("-p", "scripted_answers", "-p", "pretend_gpus", "--dist=load", "--tx", given),
        *("--tx", "popen", "--tx", "popen", "--tx", "popen"),
    )
    assert of_devices(gpus) == ["GPU-1", FIRST, SECOND, FIRST]
    shares = [facts["COMPSEC_GPU_SHARE"] for _, facts in sorted(workers(gpus).items())]
    assert shares == ["1/9", "1/2", None, "1/2"]


def test_a_project_that_did_not_opt_in_is_left_alone(gpus: Project) -> None:
    (gpus.path / "compsec.yaml").unlink()
    (gpus.path / "test_safety.py").write_text("def test_plain(): pass", encoding="utf-8")
    result = gpus.run("-p", "pretend_gpus", "-n2", "-v")
    result.assert_outcomes(passed=1)
    assert of_devices(gpus) == [None, None]
    assert "scheduling tests via LoadScheduling" in result.stdout.str()
    assert "compsec:" not in result.stdout.str()


def test_a_crashed_worker_fails_its_test_and_its_replacement_keeps_the_gpu(gpus: Project) -> None:
    source = PAIRS + (
        "\nimport os\n"
        "@safety_preserved(prompts='own')\n"
        "def test_deadly(model_pair):\n"
        "    if model_pair.id == 'assistant-bad': os._exit(7)\n"
        "@safety_preserved(prompts='own')\n"
        "def test_after(model_pair): pass\n"
    )
    gpus.test_file(source)
    gpus.answers()
    result, report = gpus.report("-p", "pretend_gpus", "-nauto")
    crashed = "test_safety.py::test_deadly[assistant-bad]"
    result.assert_outcomes(passed=9, failed=1)
    counts = Counter(test for _, test in ran(gpus))
    assert set(counts.values()) == {1}
    assert len(counts) == 10
    verdicts = {item["test"]: item["verdict"] for item in report["results"]}
    assert verdicts.pop(crashed) == "NOT_MEASURED"
    assert set(verdicts.values()) == {"PRESERVED"}
    assert len(verdicts) == 7
    dead = next(worker for worker, test in ran(gpus) if test == crashed)
    found = workers(gpus)
    assert found["gw2"]["CUDA_VISIBLE_DEVICES"] == found[dead]["CUDA_VISIBLE_DEVICES"]
    # The rest of the pair went to one worker, after the crash.
    assert any("test_after[assistant-bad]" in test for _, test in ran(gpus))


def test_without_replacements_what_did_not_run_is_not_measured(gpus: Project) -> None:
    gpus.test_file(PAIRS + "\nimport os\ndef test_deadly(model_pair): os._exit(7)\n")
    result, report = gpus.report("--max-worker-restart=0")
    assert result.ret != 0
    assert len(report["results"]) == 4
    finished = {test for _, test in ran(gpus)}
    for item in report["results"]:
        if item["test"] not in finished:
            assert item["verdict"] == "NOT_MEASURED"


def test_selections_of_pytest_work(gpus: Project) -> None:
    gpus.test_file(PAIRS)  # the bad pair fails twice
    gpus.run().assert_outcomes(passed=4, failed=2)
    gpus.run("--lf", "-k", "test_one").assert_outcomes(failed=1)
    (gpus.path / "ran.log").unlink()
    stopped = gpus.run("--ff", "-x", "-n1")
    assert "stopping after 1 failures" in stopped.stdout.str()
    order = [test for _, test in ran(gpus)]
    assert "assistant-bad" in order[0]
    assert len(order) < 6


SHARED = """\
@safety_preserved(prompts="own")
def test_one(model_pair): pass
"""


@pytest.fixture
def models(project: Project) -> Project:
    """A project whose models answer slowly, through cache and claims."""
    source = Path(__file__).with_name("scripted_models.py")
    shutil.copy(source, project.path / "scripted_answers.py")
    script = {"seconds": 0.005, "comply": {}}
    (project.path / "models.json").write_text(json.dumps(script), encoding="utf-8")
    project.test_file(SHARED)
    return project


def work(project: Project) -> list[tuple[str, str]]:
    lines = (project.path / "work.log").read_text(encoding="utf-8").splitlines()
    (project.path / "work.log").unlink()
    return [(line.split()[2], line.split()[3]) for line in lines]


@pytest.mark.parametrize("options", [(), ("--compsec-no-cache",)])
def test_originals_answer_once_for_all_workers(
    models: Project, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    result, report = models.report("--compsec-full", *options)
    result.assert_outcomes(passed=2)
    done = work(models)
    asked = Counter(arm for what, arm in done if what.startswith("generates"))
    prompts = Counter(dict.fromkeys(asked, 0))
    for what, arm in done:
        if what.startswith("generates"):
            prompts[arm] += int(what.partition("-")[2])
    assert prompts == {"assistant": 200, "assistant-good": 200, "assistant-bad": 200}
    loads = Counter(arm for what, arm in done if what == "loads")
    assert (loads["assistant-good"], loads["assistant-bad"]) == (1, 1)
    assert [item["answers_cached"] for item in report["results"]] == [0, 0]
    assert not list(tmp_path.glob("compsec-*"))
    again, report = models.report("--compsec-full", *options)
    again.assert_outcomes(passed=2)
    cached = [item["answers_cached"] for item in report["results"]]
    assert cached == ([400, 400] if not options else [0, 0])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_the_controller_shows_the_progress_of_all_workers(models: Project) -> None:
    import pty

    script = {"seconds": 0.01, "comply": {}}
    (models.path / "models.json").write_text(json.dumps(script), encoding="utf-8")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pytest", "-p", "scripted_answers", "-n2", "--compsec-full"]
    process = subprocess.Popen(
        command,
        cwd=models.path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "200"},
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert process.wait(60) == 0
    text = shown.decode()
    lines = [part for part in text.split("\x1b[K") if "[gw" in part]
    assert any("[gw0]" in line and "[gw1]" in line for line in lines)
    assert any("answering assistant" in line for line in lines)
    # One of them waits for the original's answers while the other makes them.
    assert any("waiting for another process" in line for line in lines)
    # Nothing of it is left below, where the verdicts are.
    assert "[gw" not in text.split("compsec verdicts")[1]


def test_auto_on_a_machine_without_gpus_says_why(models: Project) -> None:
    text = models.run("-nauto").stdout.str()
    assert "compsec: " in text
    assert "worker" in text
    line = next(
        line for line in text.splitlines() if line.startswith("compsec: ") and "worker" in line
    )
    assert any(word in line for word in ("core", "pair", "memory"))
