"""What `runtime: llama-cpp` refuses before llama.cpp opens anything; needs no llama.cpp."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.errors import IntegrityError, LoadError, MissingExtraError
from pytest_compsec.models.llama_cpp import load_llama_cpp
from tests.unit.tiny_model import make_arm, make_recipe, staged


def test_importing_the_room_imports_neither_torch_nor_llama_cpp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("torch", "llama_cpp"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("llama_cpp", "runtime_agreement"):
        module = f"pytest_compsec.models.{name}"
        monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.import_module(module)


@pytest.mark.parametrize(
    ("entry", "named"), [(None, "a model directory"), ("m.safetensors", r"m\.safetensors")]
)
def test_only_a_gguf_file_has_this_runtime(tmp_path: Path, entry: str | None, named: str) -> None:
    with pytest.raises(LoadError, match=rf"tiny: `runtime: llama-cpp` needs.*\.gguf.*{named}"):
        load_llama_cpp(make_arm(tmp_path, files=staged(tmp_path, entry=entry)))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"adapter": staged(Path("lora"))}, "an adapter would be left out"),
        ({"compressed_adapter": staged(Path("lora"))}, "an adapter would be left out"),
        ({"recipe": make_recipe("prune", method="magnitude", sparsity=0.5)}, "a recipe would"),
    ],
)
def test_nothing_that_would_be_left_out_is_accepted(
    tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(LoadError, match=named):
        load_llama_cpp(make_arm(tmp_path, files=staged(tmp_path, entry="m.gguf"), **fields))


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(MissingExtraError, match=r"'llama-cpp-python'.*pytest-compsec\[llama-cpp\]"):
        load_llama_cpp(make_arm(tmp_path, files=staged(tmp_path, entry="m.gguf")))


def test_changed_bytes_are_found_before_anything_else(tmp_path: Path) -> None:
    def changed() -> None:
        raise IntegrityError("m.gguf changed")

    files = staged(tmp_path, entry="m.gguf", recheck=changed)
    with pytest.raises(IntegrityError, match="changed"):
        load_llama_cpp(make_arm(tmp_path, files=files))
