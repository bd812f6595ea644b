"""The tutorial, followed to the letter from an empty folder: its files are written, its commands
run in order, and at the end there is a certificate that refuses what it must refuse."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.fences import DOCS, ROOT, commands, fences
from tests.inner_pytest import forget_the_outer_run

TUTORIAL = DOCS / "tutorial.md"
#: What ends otherwise than with 0, as the tutorial says: one of the two forms does not pass.
ENDS_WITH = {"pytest --compsec-report=first.html --compsec-report=first.json": 1}


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command with the package and the Python of this test."""
    modules = {"compsec": ["-m", "pytest_compsec.cli"], "pytest": ["-m", "pytest"], "python": []}
    if words[0] in modules:
        words = [sys.executable, *modules[words[0]], *words[1:]]
    return subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_tutorial_names_each_step() -> None:
    """So that the long test below cannot pass by finding nothing to do."""
    blocks = list(fences(TUTORIAL))
    lines = [shlex.join(words) for block in blocks if block.language == "console"
             for words in commands(block)]  # fmt: skip
    for beginning in (
        "pip install", "compsec init", "compsec pin", "compsec export", "compsec sign",
        "compsec verify-certificate", "openssl genpkey", *ENDS_WITH,
    ):  # fmt: skip
        assert any(line.startswith(beginning) for line in lines), beginning
    assert {block.title for block in blocks if block.title} == {
        "write_prompts.py", "compsec.yaml", "test_compsec_safety.py",
    }  # fmt: skip


@pytest.mark.real
def test_the_tutorial_ends_in_a_signed_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_the_outer_run(monkeypatch)
    folder = tmp_path / "gate"
    folder.mkdir()
    for block in fences(TUTORIAL):
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
        if block.language != "console":
            continue
        for words in commands(block):
            if words[0] == "pip":
                continue
            line = shlex.join(words)
            done = run(words, folder)
            assert done.returncode == ENDS_WITH.get(line, 0), (
                f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            )
    verdicts = {
        result["pair"]: result["verdict"]
        for result in json.loads((folder / "first.json").read_text("utf-8"))["results"]
    }
    assert verdicts == {"smollm2-int8": "PRESERVED", "smollm2-prune50": "REGRESSED"}
    assert "<html" in (folder / "smollm2.html").read_text("utf-8")
    refused(folder)


def refused(folder: Path) -> None:
    """What the tutorial says is refused: another file, an edited certificate, another key."""
    certificate = folder / "smollm2.intoto.json"
    verify = ["compsec", "verify-certificate", certificate.name, "--key", "pub.pem"]
    weights = folder / "smollm2-int8" / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    done = run([*verify, "--model", "./smollm2-int8"], folder)
    assert done.returncode == 1
    assert "model.safetensors" in done.stderr
    run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-out", "other.pem"], folder)  # fmt: skip
    run(["openssl", "pkey", "-in", "other.pem", "-pubout", "-out", "other.pub"], folder)
    assert run([*verify[:-1], "other.pub"], folder).returncode == 1
    envelope = json.loads(certificate.read_text("utf-8"))
    envelope["payload"] = "AAAA" + envelope["payload"][4:]
    certificate.write_text(json.dumps(envelope), encoding="utf-8")
    assert run(verify, folder).returncode == 1
