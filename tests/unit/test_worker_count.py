"""How many workers a machine without GPUs gets, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_compsec.cli import main
from pytest_compsec.models.lock import ArmPin, FilePin, SourcePin, read_lock
from pytest_compsec.worker_count import arm_bytes, largest_arm, processor_workers

CONFIG = """\
version: 1
models:
  m:
    original: {source: ./original}
    compressed:
      a: {source: ./a}
      b: {source: ./b}
      c: {quantize: {method: bitsandbytes, bits: 8}}
prompts:
  own: {file: ./own.txt}
"""
WEIGHTS = 3000


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("count")
    for number, name in enumerate(("original", "a", "b")):
        folder = root / name
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
        (folder / "model.safetensors").write_bytes(bytes([number]) * (WEIGHTS - number))
    (root / "own.txt").write_text("One?\nTwo?\n", encoding="utf-8")
    (root / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    assert main(["pin", "--config", str(root / "compsec.yaml")]) == 0
    return root / "compsec.yaml"


@pytest.mark.parametrize(
    ("processors", "models_free", "workers", "reason"),
    [
        (64, 100, 3, "one for each pair"),
        (2, 100, 2, "2 processor cores"),
        (64, 2.5, 2, "2 models fit"),
        (64, 0.5, 1, "a model may need"),
    ],
)
def test_the_tightest_limit_decides_and_is_named(
    config: Path, processors: int, models_free: float, workers: int, reason: str
) -> None:
    free = int(models_free * 1.5 * WEIGHTS)
    count = processor_workers(config, processors=processors, free=free)
    assert count.workers == workers
    assert reason in count.reason


def test_a_broken_config_is_left_to_collection(config: Path, tmp_path: Path) -> None:
    copy = tmp_path / "compsec.yaml"
    copy.write_text(config.read_text(encoding="utf-8"), encoding="utf-8")
    assert processor_workers(copy, processors=8).workers == 1  # there is no lock
    copy.write_text("version: 9", encoding="utf-8")
    assert processor_workers(copy, processors=8).workers == 1


def test_sizes_come_from_the_lock(config: Path) -> None:
    assert largest_arm(read_lock(config.with_name("compsec.lock"))) == WEIGHTS


def test_what_unpacking_adds_is_counted() -> None:
    def pin(name: str, dtype: str, entry: str | None = None) -> ArmPin:
        file = FilePin(name, "0" * 64, 100, "weights")
        return ArmPin(dtype, SourcePin(".", (file,), entry=entry))

    assert arm_bytes(pin("m.safetensors", "checkpoint")) == 100
    assert arm_bytes(pin("m.safetensors", "float32")) == 200
    assert arm_bytes(pin("m.gguf", "float32", "m.gguf")) == 1600
