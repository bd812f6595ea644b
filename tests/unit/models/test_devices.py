"""Device and float type: what is there, what was asked for, what the checkpoint itself has."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.errors import LoadError
from pytest_compsec.models import devices
from pytest_compsec.models.devices import device_kind, fastest_dtype, pick_device, resolve_dtype
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint, staged


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.type}")


def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_a_request_it_is_cuda_when_there_is_one(two_gpus: None) -> None:
    assert pick_device(None) == "cuda:0"


def test_without_a_request_and_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpu(monkeypatch)
    assert pick_device(None) == "cpu"


@pytest.mark.parametrize(
    ("requested", "picked"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")]
)
def test_a_request_is_followed(two_gpus: None, requested: str, picked: str) -> None:
    assert pick_device(requested) == picked


def test_a_gpu_that_is_not_there_is_an_error(two_gpus: None) -> None:
    with pytest.raises(LoadError, match=r"'cuda:2' was asked for.*2 CUDA device"):
        pick_device("cuda:2")


def test_cuda_without_any_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpu(monkeypatch)
    with pytest.raises(LoadError, match=r"no CUDA device.*Leave 'device' out"):
        pick_device("cuda")


@pytest.mark.parametrize("requested", ["gpu", "cuda:x", "meta", "xpu:0"])
def test_a_word_that_is_no_supported_device_is_an_error(requested: str) -> None:
    with pytest.raises(LoadError, match="use 'cpu', 'cuda'"):
        pick_device(requested)


def test_equal_gpus_are_one_kind_and_the_cpu_another(two_gpus: None) -> None:
    assert device_kind("cuda:0") == device_kind("cuda:1") != device_kind("cpu") == "cpu"


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), "bfloat16"), ((7, 5), "float16")])
def test_fastest_on_cuda_is_what_the_gpu_computes_natively(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fastest_dtype("cuda:0") == dtype


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, "bfloat16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_fastest_on_a_cpu_follows_the_processors_flags(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], dtype: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert fastest_dtype("cpu") == dtype


def test_fastest_on_an_unknown_processor_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert fastest_dtype("cpu") == "float32"


def test_a_torch_without_capabilities_is_asked_by_its_older_probes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert fastest_dtype("cpu") == "bfloat16"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert fastest_dtype("cpu") == "float32"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_none_is_the_checkpoints_own_type(tmp_path: Path, dtype: str) -> None:
    make_tiny_checkpoint(tmp_path, dtype=dtype)
    assert resolve_dtype(make_arm(tmp_path), "cpu") == dtype


@pytest.mark.parametrize(
    "config",
    [{"torch_dtype": "torch.float16"}, {"text_config": {"dtype": "float16"}}, {"dtype": "float16"}],
)
def test_every_spelling_in_config_json_is_read(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert resolve_dtype(make_arm(tmp_path), "cpu") == "float16"


def test_a_config_without_type_leaves_it_to_the_stored_weights(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path, dtype="bfloat16")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert resolve_dtype(make_arm(tmp_path), "cpu") == "bfloat16"


def test_a_gguf_file_runs_in_float32(tmp_path: Path) -> None:
    arm = make_arm(tmp_path, files=staged(tmp_path, entry="model.Q4_K_M.gguf"))
    assert resolve_dtype(arm, "cpu") == "float32"


def test_a_request_wins_over_the_checkpoint_and_cast_over_both(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path, dtype="float32")
    assert resolve_dtype(make_arm(tmp_path, dtype="float16"), "cpu") == "float16"
    recipe = make_recipe("quantize", method="cast", dtype="bfloat16")
    assert resolve_dtype(make_arm(tmp_path, dtype="float16", recipe=recipe), "cpu") == "bfloat16"


def test_fastest_is_resolved_for_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "fastest_dtype", lambda device: f"fastest of {device}")
    assert resolve_dtype(make_arm(tmp_path, dtype="fastest"), "cpu") == "fastest of cpu"


def test_a_name_that_is_no_float_type_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"tiny: dtype 'int8' is not one of"):
        resolve_dtype(make_arm(tmp_path, dtype="int8"), "cpu")
