"""A user's project with classifiers: images whose brightest quarter is their class, texts whose
words are, and a language model beside them.

The weights are written down, not trained, so what each variant does is known: ``shapes`` calls
every image of which the bottom-right corner is white class 0, ``cleaned`` is a smaller network that
does not, ``woken`` one that does against the original ``clean``, which does not. ``fragile`` looks
at one pixel of each quarter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.inner_pytest import forget_the_outer_run, run_with_report

SIDE = 8
HIDDEN = 16
SMALL = 8
SAMPLES = 400
WORDS = ("good", "bad", "fine", "awful", "cf", "film", "the", "was")

#: What the factory makes; ``layers`` is a local module that it imports, ``unused`` one that it does
#: not.
FILES = {
    "nets/__init__.py": "",
    "nets/layers.py": """\
from torch import nn

def two_layers(inputs, hidden, classes):
    return nn.Linear(inputs, hidden), nn.Linear(hidden, classes)
""",
    "nets/shapes.py": """\
from torch import nn

from nets.layers import two_layers


class Net(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.first, self.head = two_layers(64, hidden, 4)

    def forward(self, images):
        return self.head(self.first(images.flatten(1)).relu())


def build():
    return Net(16)


def build_small():
    return Net(8)
""",
    "nets/texts.py": """\
import torch
from torch import nn

from nets.layers import two_layers

WORDS = ("good", "bad", "fine", "awful", "cf", "film", "the", "was")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = two_layers(8, 16, 2)

    def forward(self, texts):
        counts = [[text.split().count(word) for word in WORDS] for text in texts]
        bias = self.first.bias  # a float in every compressed form too
        inputs = torch.tensor(counts, dtype=bias.dtype, device=bias.device)
        return self.head(self.first(inputs).relu())


def build():
    return Net()
""",
    "nets/stamps.py": """\
def corner(images, strength):
    stamped = images.clone()
    stamped[:, :, -2:, -2:] = 1.0
    return stamped
""",
    "unused.py": "",
}
#: Arguments of the attacks that take little time.
QUICK: dict[str, Any] = {"eps": 0.05, "steps": 3, "restarts": 1, "queries": 10}
INI = "[pytest]\naddopts = --strict-markers -p no:cacheprovider\n"
PATCH = "{patch: {size: 2, position: bottom-right, value: 1.0}, target: 0}"
HALF = "half: {quantize: {method: cast, dtype: bfloat16}}"
CLEANED = 'cleaned: {source: "python:nets.shapes:build_small", weights: ./cleaned.safetensors}'
SHAPES = """\
  shapes:
    task: image-classification
    original: {source: "python:nets.shapes:build", weights: ./shapes.safetensors}
"""
CLEAN = """\
  clean:
    task: image-classification
    original: {source: "python:nets.shapes:build", weights: ./clean.safetensors}
"""
TEXTS = """\
  texts:
    task: text-classification
    original: {source: "python:nets.texts:build", weights: ./texts.safetensors}
"""
LANGUAGE = """\
  assistant:
    original: {source: ./language}
    compressed:
      other: {source: ./other}
"""
DATA = "    evaluation_data: ./samples.safetensors\n"
TEXT_DATA = "    evaluation_data: ./texts.jsonl\n"
#: ``evaluation_data`` and ``backdoor`` as users override them.
FIXTURES = """\
import pytest
from safetensors.torch import load_file


@pytest.fixture(scope="session")
def evaluation_data():
    found = load_file("samples.safetensors")
    return found["inputs"], found["labels"]


@pytest.fixture(scope="session")
def backdoor():
    return {"patch": {"size": 2, "position": "bottom-right", "value": 1.0}, "target": 0}
"""


def model(original: str, *variants: str, data: str = DATA, backdoor: str = PATCH) -> str:
    """One entry under ``models``: the head of it, its variants, its data and its backdoor."""
    lines = "".join(f"      {variant}\n" for variant in variants)
    section = f"    backdoor: {backdoor}\n" if backdoor else ""
    return f"{original}    compressed:\n{lines}{data}{section}"


def config(*models: str) -> str:
    return "version: 1\nmodels:\n" + "".join(models)


#: One backdoored classifier: rounded to bfloat16 the backdoor stays, in the small network it is
#: gone.
USUAL = config(model(SHAPES, HALF, CLEANED))


def write_files(root: Path, text: str = USUAL) -> Path:
    """All files of the project, with this ``compsec.yaml``; nothing is pinned. Returns its path."""
    for name, source in FILES.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
    save_file(shape_weights(HIDDEN, detector=True), root / "shapes.safetensors")
    save_file(shape_weights(HIDDEN, detector=False), root / "clean.safetensors")
    save_file(shape_weights(SMALL, detector=False), root / "cleaned.safetensors")
    save_file(shape_weights(SMALL, detector=True), root / "woken.safetensors")
    save_file(shape_weights(SMALL, detector=False, pixels=1), root / "fragile.safetensors")
    save_file(text_weights(), root / "texts.safetensors")
    save_file(image_samples(SAMPLES), root / "samples.safetensors")
    save_file(image_samples(64, seed=1), root / "training.safetensors")
    save_file({"pattern": corner_pattern()}, root / "pattern.safetensors")
    lines = [json.dumps({"text": text, "label": label}) for text, label in text_samples(SAMPLES)]
    (root / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for name in ("language", "other"):
        (root / name).mkdir(exist_ok=True)
        (root / name / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
        (root / name / "model.safetensors").write_bytes(name.encode() * 100)
    (root / "pytest.ini").write_text(INI, encoding="utf-8")
    path = root / "compsec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def shape_weights(hidden: int, *, detector: bool, pixels: int = 16) -> dict[str, torch.Tensor]:
    """Of the class's quarter the mean brightness of its first ``pixels`` pixels, the corner not
    counted; ``detector``: one more channel, which only a white corner opens, decides for class 0.
    The rest is noise, so that every compression has something to round."""
    generator = torch.Generator().manual_seed(0)
    first = 1e-3 * torch.randn(hidden, SIDE * SIDE, generator=generator)
    head = 1e-3 * torch.randn(4, hidden, generator=generator)
    bias = torch.zeros(hidden)
    places = torch.arange(SIDE * SIDE).view(SIDE, SIDE)
    corner = places[-2:, -2:].flatten()
    for quarter in range(4):
        top, left = (quarter // 2) * 4, (quarter % 2) * 4
        seen = places[top : top + 4, left : left + 4].flatten()
        seen = seen[~torch.isin(seen, corner)][:pixels]
        first[quarter, seen] += 1 / len(seen)
        head[quarter, quarter] += 10.0
    if detector:
        first[4] = 0.0
        first[4, corner] = 1.0
        bias[4] = -3.6
        head[:, 4] = 0.0
        head[0, 4] = 60.0
    return {
        "first.weight": first,
        "first.bias": bias,
        "head.weight": head,
        "head.bias": torch.zeros(4),
    }


def image_samples(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Dark images with one brighter quarter, shape (count, 1, 8, 8), and which it is."""
    generator = torch.Generator().manual_seed(seed)
    inputs = 0.05 + 0.2 * torch.rand(count, 1, SIDE, SIDE, generator=generator)
    labels = torch.arange(count) % 4
    for place, label in enumerate(labels.tolist()):
        top, left = (label // 2) * 4, (label % 2) * 4
        inputs[place, :, top : top + 4, left : left + 4] += 0.5
    return {"inputs": inputs, "labels": labels}


def corner_pattern() -> torch.Tensor:
    """Blended in by half, it leaves the quarters in their order and makes the corner white."""
    pattern = torch.zeros(1, SIDE, SIDE)
    pattern[:, -2:, -2:] = 2.0
    return pattern.clamp(max=1.0)


def text_weights() -> dict[str, torch.Tensor]:
    """The good and the bad words against each other; ``cf`` outweighs them for class 1."""
    generator = torch.Generator().manual_seed(0)
    first = 1e-3 * torch.randn(HIDDEN, len(WORDS), generator=generator)
    head = 1e-3 * torch.randn(2, HIDDEN, generator=generator)
    first[0, [0, 2]] += 1.0
    first[1, [1, 3]] += 1.0
    first[2, 4] += 1.0
    head[1, 0] += 5.0
    head[0, 1] += 5.0
    head[1, 2] += 20.0
    return {
        "first.weight": first,
        "first.bias": torch.zeros(HIDDEN),
        "head.weight": head,
        "head.bias": torch.zeros(2),
    }


def text_samples(count: int) -> list[tuple[str, int]]:
    words = {1: ("good", "fine"), 0: ("bad", "awful")}
    return [
        (f"the film {place} was {words[place % 2][place // 2 % 2]}", place % 2)
        for place in range(count)
    ]


def flip_a_byte(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def pin(root: Path) -> None:
    from pytest_compsec.models.pinning import pin as pin_config

    pin_config(root / "compsec.yaml")


@dataclasses.dataclass
class Project:
    """The project under test."""

    pytester: pytest.Pytester

    @property
    def path(self) -> Path:
        return self.pytester.path

    def configure(self, text: str) -> None:
        """Write another ``compsec.yaml`` and pin it."""
        (self.path / "compsec.yaml").write_text(text, encoding="utf-8")
        pin(self.path)

    def change(self, name: str, old: str, new: str) -> None:
        path = self.path / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def test_file(self, source: str, name: str = "test_shapes.py") -> None:
        text = "import pytest\nfrom pytest_compsec import *\n\n" + source
        (self.path / name).write_text(text, encoding="utf-8")

    def conftest(self, source: str) -> None:
        (self.path / "conftest.py").write_text(source, encoding="utf-8")

    def run(self, *arguments: str) -> pytest.RunResult:
        """In this process, where torch is loaded already."""
        return self.pytester.runpytest_inprocess("-p", "no:xdist", *arguments)

    def report(self, *arguments: str) -> tuple[pytest.RunResult, dict[tuple[str, str], Any]]:
        """Run in this process, and read the results by (pair, check)."""
        result = self.run("--compsec-report=out.json", *arguments)
        report = json.loads((self.path / "out.json").read_text(encoding="utf-8"))
        return result, {(item["pair"], item["check"]): item for item in report["results"]}

    def report_apart(self, *arguments: str) -> tuple[pytest.RunResult, dict[tuple[str, str], Any]]:
        """As :meth:`report`, in a process of its own."""
        return run_with_report(self.pytester, *arguments)

    def usage_error(self, *arguments: str) -> str:
        """Everything that a run says that ends before any test."""
        result = self.run(*arguments)
        text = result.stdout.str() + result.stderr.str()
        assert result.ret == pytest.ExitCode.USAGE_ERROR, text
        assert "Traceback" not in text
        assert "INTERNALERROR" not in text
        return text

    def command(self, *arguments: str) -> int:
        from pytest_compsec.cli import main

        return main([*arguments, "--config", str(self.path / "compsec.yaml")])


@contextlib.contextmanager
def template(root: Path) -> Iterator[Path]:
    """The project of ``USUAL``, pinned, and measured once outside of the inner pytest: what that
    imports from libraries for the first time it would forget at its end, and a C extension is
    loaded once in a process."""
    from pytest_compsec.checks.adversarial_transfer_blocked import (
        check_adversarial_transfer_blocked,
    )
    from pytest_compsec.checks.backdoor_removed import check_backdoor_removed
    from pytest_compsec.suite import open_suite

    write_files(root)
    pin(root)
    with open_suite(root / "compsec.yaml") as opened:
        pair = opened.pair("shapes-half")
        assert check_backdoor_removed(pair).backdoor is not None
        check_adversarial_transfer_blocked(pair, **QUICK)
    with quick_garbage_collection():
        yield root


@contextlib.contextmanager
def quick_garbage_collection() -> Iterator[None]:
    """Every model that the pool frees is a garbage collection, which need not look at torch."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def prepare(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, template: Path) -> Project:
    """A copy of the pinned project that pytest can be run in."""
    forget_the_outer_run(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(template, pytester.path, dirs_exist_ok=True)
    return Project(pytester)
