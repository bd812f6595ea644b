"""A project in which the test files that the documentation shows are collected by a real pytest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_compsec.models.pinning import pin
from tests.docs.fences import ROOT
from tests.inner_pytest import forget_the_outer_run
from tests.unit.tiny_model import make_tiny_checkpoint

_SUITE = Path(__file__).with_name("suite.yaml")
_NETS = "from torch import nn\n\n\ndef build() -> nn.Module:\n    return nn.Linear(2, 2)\n"
_LOAD = (
    "import sys, pathlib; from pytest_compsec.config.loading import load_config; "
    "load_config(pathlib.Path(sys.argv[1]))"
)


def prelude(text: str) -> str:
    """What a block leaves out: the import of the markers that it shows."""
    return "" if "import" in text else "from pytest_compsec import *\n"


def make_project(folder: Path) -> None:
    """A pinned suite with all that the blocks name. Its models answer nothing: nobody asks."""
    import numpy
    import torch
    from safetensors.torch import save_file

    for seed, name in enumerate(("original", "gptq")):
        make_tiny_checkpoint(folder / name, seed=seed)
    (folder / "nets.py").write_text(_NETS, encoding="utf-8")
    save_file(torch.nn.Linear(2, 2).state_dict(), folder / "signs.safetensors")
    save_file(
        {"inputs": torch.zeros(4, 1, 8, 8), "labels": torch.zeros(4, dtype=torch.long)},
        folder / "signs-test.safetensors",
    )
    numpy.savez(folder / "probe.npz", a=numpy.zeros((4, 2)), b=numpy.zeros((4, 2)))
    for name in ("mine", "banking", "everyday", "canaries", "members", "reviews"):
        lines = [
            {"id": f"{name}-{number}", "prompt": f"{name} {number}", "text": f"{name} {number}",
             "secret": f"{number}", "category": f"c{number % 4}", "label": number % 2}
            for number in range(300)
        ]  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (folder / "compsec.yaml").write_bytes(_SUITE.read_bytes())
    pin(folder / "compsec.yaml", expect={}, notify=lambda text: None)


def collect(folder: Path) -> tuple[list[str], int]:
    """All that a pytest of its own said, and how it ended; nothing is run."""
    with pytest.MonkeyPatch.context() as patch:
        forget_the_outer_run(patch)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--collect-only", "-q", "--strict-markers",
             "-p", "no:cacheprovider", "--rootdir", str(folder)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
    return [*done.stdout.splitlines(), *done.stderr.splitlines()], done.returncode


def load_with_extensions(path: Path) -> None:
    """Load a config where the distribution of ``tests/third_party`` is installed."""
    folders = [str(ROOT / "tests" / "third_party"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
