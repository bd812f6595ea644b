"""A project with a tiny model that really refuses, and a command run in it as a reader runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.docs.fences import ROOT
from tests.unit.trained_tiny_model import prompt, train_tiny_checkpoint

#: Beside what a page shows: fixed prompts of the model, and a check of each direction on them.
PROMPTS = {"bad": True, "harmful-train": True, "harmful-select": True,
           "good": False, "benign-train": False}  # fmt: skip
SECTIONS: Mapping[str, Any] = {
    "prompts": {name: {"file": f"./{name}.txt"} for name in PROMPTS},
    "defaults": {"max_new_tokens": 30},
}
RECIPE = {"quantize": {"method": "cast", "dtype": "bfloat16"}}
TESTS = """
from pytest_compsec import over_refusal_preserved, safety_preserved

@safety_preserved(prompts="bad", variants="VARIANT")
def test_refuses(model_pair): ...

@over_refusal_preserved(prompts="good", variants="VARIANT")
def test_helps(model_pair): ...
"""
INI = "[pytest]\naddopts = --strict-markers\ncompsec_expected_discordance = 0\n"
_MODULES = {"compsec": ["-m", "pytest_compsec.cli"], "pytest": ["-m", "pytest"], "python": []}


def trained_model(folder: Path) -> Path:
    """Takes seconds; share it."""
    return train_tiny_checkpoint(folder / "trained")


def smaller(source: Path, target: Path) -> Path:
    """The model again, its weights in bfloat16: a compressed form as files."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(source, dtype="bfloat16").save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    shutil.copy(source / "chat_template.jinja", target)
    return target


def write_project(folder: Path, models: Mapping[str, Any], variant: str) -> None:
    """Config, prompts and tests around the models of a page."""
    for name, harmful in PROMPTS.items():
        lines = [prompt(number, harmful=harmful) for number in range(160)]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    write_config(folder, models)
    (folder / "test_safety.py").write_text(TESTS.replace("VARIANT", variant), encoding="utf-8")
    (folder / "pytest.ini").write_text(INI, encoding="utf-8")


def write_config(folder: Path, models: Mapping[str, Any]) -> None:
    text = yaml.safe_dump({"version": 1, "models": dict(models), **SECTIONS})
    (folder / "compsec.yaml").write_text(text, encoding="utf-8")


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command with the package and the Python of this test."""
    if words[0] in _MODULES:
        words = [sys.executable, *_MODULES[words[0]], *words[1:]]
    return subprocess.run(
        words,
        cwd=folder,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
