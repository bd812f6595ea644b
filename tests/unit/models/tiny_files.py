"""Model directories of a few hundred bytes: nothing in them is ever parsed by these tests."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from pytest_compsec.config.loading import LoadedConfig, load_config
from pytest_compsec.models.lock import Lock, read_lock
from pytest_compsec.models.pinning import pin
from pytest_compsec.models.verified import VerifiedInputs

CONFIG = """\
version: 1
models:
  assistant:
    original: {source: ./model}
    compressed:
      half: {prune: {method: magnitude, sparsity: 0.5}}
      other: {source: ./other}
"""


def safetensors(payload: bytes = b"\x00" * 64) -> bytes:
    """A well-formed safetensors file with one float32 tensor."""
    header = {
        "w": {"dtype": "F32", "shape": [len(payload) // 4], "data_offsets": [0, len(payload)]}
    }
    text = json.dumps(header).encode("ascii")
    return struct.pack("<Q", len(text)) + text + payload


def write_model(folder: Path, payload: bytes = b"\x00" * 64) -> Path:
    """Config, tokenizer, template and weights, as a small model directory has them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(safetensors(payload))
    return folder


def write_suite(root: Path, text: str = CONFIG) -> Path:
    """A project with two model directories and a config. Returns the config's path."""
    write_model(root / "model")
    write_model(root / "other", b"\x01" * 64)
    path = root / "compsec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def pinned_suite(root: Path, text: str = CONFIG) -> tuple[LoadedConfig, Lock]:
    """The same, pinned."""
    path = write_suite(root, text)
    return load_config(path), pin(path).lock


def open_inputs(config: Path) -> VerifiedInputs:
    """What a test run does: config and lock as they are on the disk now."""
    loaded = load_config(config)
    return VerifiedInputs.open(loaded, read_lock(loaded.lock_path))
