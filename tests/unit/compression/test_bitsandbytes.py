"""bitsandbytes variants: the same codes as transformers' own way, promises kept or refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.compression import bitsandbytes
from pytest_compsec.errors import MissingExtraError, NotCompressedError
from pytest_compsec.models.loading import load
from tests.unit.tiny_model import make_arm, make_recipe, make_tiny_checkpoint

pytest.importorskip("bitsandbytes")

INT8 = {"method": "bitsandbytes", "bits": 8}
NF4 = {"method": "bitsandbytes", "bits": 4, "type": "nf4"}
FP4 = {"method": "bitsandbytes", "bits": 4, "type": "fp4"}
NF4_NESTED = {**NF4, "double_quant": True}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny") / request.param
    return make_tiny_checkpoint(directory, dtype=request.param, tied=False)


def by_transformers(checkpoint: Path, **config: Any) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    make: Any = BitsAndBytesConfig  # Its constructor has no types.
    return AutoModelForCausalLM.from_pretrained(
        checkpoint, quantization_config=make(**config), device_map={"": "cpu"}
    )


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        (INT8, {"load_in_8bit": True}),
        (NF4, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
        (FP4, {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}),
        (
            NF4_NESTED,
            {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
            },
        ),
    ],
    ids=["int8", "nf4", "fp4", "nf4-nested"],
)
def test_codes_and_logits_equal_those_of_transformers(
    checkpoint: Path, options: dict[str, Any], theirs: dict[str, Any]
) -> None:
    dtype = getattr(torch, checkpoint.name)
    if "load_in_4bit" in theirs:
        theirs = {**theirs, "bnb_4bit_compute_dtype": dtype}
    reference = by_transformers(checkpoint, **theirs)
    loaded = load(make_arm(checkpoint, recipe=make_recipe("quantize", **options)))
    ours, expected = loaded.module.state_dict(), reference.state_dict()
    assert ours.keys() == expected.keys()
    differing = [name for name in expected if not torch.equal(ours[name], expected[name])]
    assert differing == []
    ids = loaded.tokenizer("How do I bake bread?", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(loaded.module(ids).logits, reference(ids).logits)


@pytest.mark.parametrize(("options", "bits"), [(INT8, 8.0), (NF4, 4.0), (FP4, 4.0)])
def test_every_linear_layer_but_the_output_is_quantized(
    checkpoint: Path, options: dict[str, Any], bits: float
) -> None:
    report = load(make_arm(checkpoint, recipe=make_recipe("quantize", **options))).weights
    assert {matrix.bits for matrix in report.of("linear")} == {bits}
    assert len(report.of("linear")) == 14
    assert {matrix.bits for matrix in report.of("output", "embedding")} == {
        32.0 if checkpoint.name == "float32" else 16.0
    }


def test_scales_are_reported_apart_from_the_codes(checkpoint: Path) -> None:
    plain = load(make_arm(checkpoint, recipe=make_recipe("quantize", **NF4))).weights
    nested = load(make_arm(checkpoint, recipe=make_recipe("quantize", **NF4_NESTED))).weights
    # One float32 scale for 64 weights; nested, one byte for 64 and little more.
    assert {m.overhead_bits for m in plain.of("linear")} == {0.5}
    assert all(0.125 <= m.overhead_bits < 0.25 for m in nested.of("linear"))


def test_the_measurement_holds_after_the_first_answer(checkpoint: Path) -> None:
    # On some processors bitsandbytes repacks its weights in the first forward pass.
    from pytest_compsec.models.weights import measure_weights

    for options in (INT8, NF4):
        loaded = load(make_arm(checkpoint, recipe=make_recipe("quantize", **options)))
        with torch.no_grad():
            loaded.module(loaded.tokenizer("hello", return_tensors="pt").input_ids)
        again = measure_weights(loaded.module)
        assert [m.bits for m in again.matrices] == [m.bits for m in loaded.weights.matrices]


def test_an_apply_that_does_nothing_is_caught(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bitsandbytes, "apply", lambda module, options, device: module)
    with pytest.raises(NotCompressedError, match=r"tiny-variant: not compressed.*8 bits.*q_proj"):
        load(make_arm(checkpoint, recipe=make_recipe("quantize", **INT8)))


def test_one_layer_left_out_is_caught(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bitsandbytes.apply

    def leaves_one_out(module: torch.nn.Module, options: Any, device: str) -> torch.nn.Module:
        kept = module.get_submodule("model.layers.1.mlp.up_proj")
        real(module, options, device)
        module.set_submodule("model.layers.1.mlp.up_proj", kept)
        return module

    monkeypatch.setattr(bitsandbytes, "apply", leaves_one_out)
    with pytest.raises(NotCompressedError, match=r"1 of 14 .*layers\.1\.mlp\.up_proj"):
        load(make_arm(checkpoint, recipe=make_recipe("quantize", **NF4)))


def test_without_bitsandbytes_the_install_command_is_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"pytest-compsec\[bitsandbytes\]"):
        load(make_arm(checkpoint, recipe=make_recipe("quantize", **INT8)))


@pytest.mark.skipif(
    not getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)(),
    reason="bitsandbytes asks the hub for code on processors with AVX512-BF16 only",
)
@pytest.mark.parametrize("way", ["recipe", "adapter"])
def test_no_code_is_taken_from_the_hub(tmp_path: Path, way: str) -> None:
    (tmp_path / "kernels.py").write_text(
        "def get_kernel(*args, **keywords):\n    print('asked the hub for code')\n"
    )
    calls = {
        "recipe": "from pytest_compsec.compression.bitsandbytes import _library; _library()",
        "adapter": "from pytest_compsec.models.adapters import _library; _library()",
    }
    outputs = []
    for code in (calls[way], "import bitsandbytes"):
        path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
        run = subprocess.run(
            [sys.executable, "-c", code + "; import kernels; print(kernels.get_kernel.__name__)"],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(run.stdout)
    ours, plain = outputs
    assert "asked the hub" not in ours
    assert "get_kernel" in ours  # It is there again for whoever wants it.
    assert "asked the hub" in plain, "bitsandbytes no longer does this: drop the guard"


def test_the_cast_warning_of_every_product_is_silent_and_others_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    make_tiny_checkpoint(tmp_path)
    loaded = load(make_arm(tmp_path, recipe=make_recipe("quantize", **INT8)))
    with torch.no_grad():
        loaded.module(loaded.tokenizer("hello", return_tensors="pt").input_ids)
    logging.getLogger("bitsandbytes.autograd._functions").warning("another warning")
    assert [record.message for record in caplog.records] == ["another warning"]
