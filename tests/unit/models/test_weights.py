"""Measured weights: bits, zeros, roles, and the comparison of a source variant to its original."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pytest_compsec.compression.expectation import Expectation, check
from pytest_compsec.errors import LoadError, NotCompressedError
from pytest_compsec.models.stored import stored_bits
from pytest_compsec.models.weights import (
    WeightMatrix,
    WeightReport,
    check_is_compressed,
    measure_weights,
)
from tests.unit.tiny_model import staged


class Model(nn.Module):
    """Every kind of weight matrix once."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.linear = nn.Linear(4, 4)
        self.convolution = nn.Conv1d(4, 4, 3)
        self.experts = nn.Parameter(torch.ones(2, 4, 4))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def matrix(**changes: Any) -> WeightMatrix:
    values: dict[str, Any] = {
        "name": "layer.weight",
        "role": "linear",
        "shape": (100, 100),
        "storage": "float32",
        "bits": 32.0,
        "overhead_bits": 0.0,
        "zeros": 0.0,
    }
    return WeightMatrix(**{**values, **changes})


def report(*, stored: float | None = None, **changes: Any) -> WeightReport:
    return WeightReport((matrix(**changes),), stored_bits=stored)


# Measuring


def test_every_matrix_has_the_role_of_its_layer_and_vectors_are_left_out() -> None:
    roles = {m.name: m.role for m in measure_weights(Model()).matrices}
    assert roles == {
        "embedding.weight": "embedding",
        "linear.weight": "linear",
        "convolution.weight": "convolution",
        "experts": "other",
        "head.weight": "output",
    }


def test_a_tied_matrix_counts_once_as_the_embedding() -> None:
    names = [m.name for m in measure_weights(Model(tied=True)).matrices]
    assert "embedding.weight" in names
    assert "head.weight" not in names


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.float64, 64), (torch.float32, 32), (torch.bfloat16, 16)]
)
def test_bits_are_those_of_the_storage(dtype: torch.dtype, bits: int) -> None:
    measured = measure_weights(Model().to(dtype))
    assert {m.bits for m in measured.matrices} == {float(bits)}
    assert measured.bits == bits


def test_zeros_are_counted_exactly() -> None:
    model = Model()
    model.linear.weight.data = torch.tensor([[0.0, -0.0, 1e-30, 1.0]] * 4)
    (linear,) = measure_weights(model).of("linear")
    assert linear.zeros == 0.5


def test_zeros_of_four_bit_codes_are_those_of_the_numbers_they_stand_for() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    for kind in ("nf4", "fp4"):
        layer = bnb.nn.Linear4bit(64, 8, bias=False, quant_type=kind)
        weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
        weight[:, ::3] = 0.0
        layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type=kind).to("cpu")
        numbers = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        (found,) = measure_weights(nn.Sequential(layer)).matrices
        assert found.zeros == float((numbers == 0).float().mean()), kind
        assert found.zeros > 0.3
        assert (found.shape, found.storage, found.role) == ((8, 64), kind, "linear")


def test_a_report_survives_json() -> None:
    measured = measure_weights(Model(), stored_bits=4.5)
    assert WeightReport.from_json(json.loads(json.dumps(measured.to_json()))) == measured


# The promise of a recipe


def test_a_kept_promise_passes() -> None:
    check(report(bits=8.0, storage="int8"), Expectation(max_bits=8.0))
    check(report(zeros=0.5), Expectation(min_zero_fraction=0.5))


def test_a_matrix_with_more_bits_is_named() -> None:
    with pytest.raises(NotCompressedError, match=r"layer\.weight \(16 bits, bfloat16\)"):
        check(report(bits=16.0, storage="bfloat16"), Expectation(max_bits=8.0))


def test_zeros_are_weighed_by_size() -> None:
    small = matrix(shape=(10, 10), zeros=1.0)
    both = WeightReport((matrix(zeros=0.4), small))
    check(both, Expectation(min_zero_fraction=0.4))
    with pytest.raises(NotCompressedError, match="not pruned"):
        check(both, Expectation(min_zero_fraction=0.5))


def test_a_model_without_linear_layers_is_not_compressed() -> None:
    with pytest.raises(NotCompressedError, match="nothing was compressed"):
        check(report(role="embedding"), Expectation(max_bits=8.0))


def test_untouched_experts_that_are_most_of_the_model_are_not_compressed() -> None:
    linear = matrix(bits=4.0, storage="nf4")
    experts = matrix(name="experts", role="other", shape=(8, 100, 100), bits=16.0)
    with pytest.raises(NotCompressedError, match="experts"):
        check(WeightReport((linear, experts)), Expectation(max_bits=4.0))
    router = dataclasses.replace(experts, name="router", shape=(2, 50))
    check(WeightReport((linear, router)), Expectation(max_bits=4.0))


# A source variant against its original


@pytest.mark.parametrize(
    "compressed",
    [
        report(bits=16.0),
        report(bits=8.0),
        report(zeros=0.3),
        report(shape=(100, 90)),
        report(stored=4.5),
    ],
    ids=["fewer bits", "int8", "sparse", "smaller", "packed file"],
)
def test_any_real_compression_passes(compressed: WeightReport) -> None:
    check_is_compressed(report(), compressed)


@pytest.mark.parametrize(
    "compressed",
    [report(), report(bits=64.0), report(shape=(100, 110)), report(zeros=0.0005)],
    ids=["same", "more bits", "larger", "a few zeros"],
)
def test_a_variant_that_is_not_compressed_is_an_error(compressed: WeightReport) -> None:
    with pytest.raises(NotCompressedError, match=r"not compressed: .*32\.00.*full-precision copy"):
        check_is_compressed(report(), compressed)


def test_zeros_that_rounding_makes_do_not_hide_more_bits() -> None:
    # Q8_0 made of Q4_K: the weights that were nearly zero are zero now.
    with pytest.raises(NotCompressedError, match=r"8\.50 bits per weight \(original 4\.50\)"):
        check_is_compressed(report(stored=4.5), report(stored=8.5, zeros=0.05))
    # The same error for half of the weights in twice the bits; a tenth of them is compression.
    with pytest.raises(NotCompressedError):
        check_is_compressed(report(bits=16.0), report(bits=32.0, zeros=0.5))
    check_is_compressed(report(bits=16.0), report(bits=32.0, zeros=0.9))


def test_pruning_at_equal_bits_is_compression_also_of_a_sparse_model() -> None:
    check_is_compressed(report(stored=8.5, zeros=0.02), report(stored=8.5, zeros=0.5))
    check_is_compressed(report(zeros=0.5), report(zeros=0.6))
    with pytest.raises(NotCompressedError):
        check_is_compressed(report(zeros=0.5), report(zeros=0.5))
    with pytest.raises(NotCompressedError):
        check_is_compressed(report(zeros=0.6), report(zeros=0.5))


def test_two_packed_files_are_compared_by_their_files() -> None:
    check_is_compressed(report(stored=8.5), report(stored=4.5))
    with pytest.raises(NotCompressedError):
        check_is_compressed(report(stored=4.5), report(stored=4.5))


def test_an_unpacked_original_is_what_runs_not_what_its_file_holds() -> None:
    # The original runs as 32-bit floats; eight bits are a compression of that.
    check_is_compressed(report(stored=5.0), report(bits=8.0))


# Bits in a GGUF file


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def write_gguf(path: Path, tensors: list[tuple[str, tuple[int, ...], int]]) -> None:
    values = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    values += text("a.list") + struct.pack("<IIQ", 9, 8, 2) + text("x") + text("yz")
    values += text("a.numbers") + struct.pack("<IIQ", 9, 5, 3) + struct.pack("<3i", 1, 2, 3)
    values += text("a.nested") + struct.pack("<IIQIQ", 9, 9, 1, 7, 2) + b"\x01\x00"
    values += text("a.float") + struct.pack("<If", 6, 0.5)
    infos = b"".join(
        text(name)
        + struct.pack("<I", len(shape))
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", kind, 0)
        for name, shape, kind in tensors
    )
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 5) + values + infos)


F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8


@pytest.mark.parametrize(("kind", "bits"), [(F32, 32.0), (F16, 16.0), (Q4_0, 4.5), (Q8_0, 8.5)])
def test_bits_of_a_file_are_those_of_its_linear_layers(
    tmp_path: Path, kind: int, bits: float
) -> None:
    pytest.importorskip("gguf")
    write_gguf(
        tmp_path / "m.gguf",
        [
            ("token_embd.weight", (64, 1000), F16),
            ("output.weight", (64, 1000), Q8_0),
            ("blk.0.attn_norm.weight", (64,), F32),
            ("blk.0.attn_q.weight", (64, 64), kind),
        ],
    )
    assert stored_bits(staged(tmp_path, entry="m.gguf")) == bits


def test_mixed_types_are_weighed_by_size(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "m.gguf", [("a", (64, 64), Q4_0), ("b", (64, 192), Q8_0)])
    assert stored_bits(staged(tmp_path, entry="m.gguf")) == pytest.approx(7.5)


def test_a_directory_has_no_bits_of_its_own(tmp_path: Path) -> None:
    assert stored_bits(staged(tmp_path)) is None


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "m.gguf", [("a", (64, 64), Q4_0)])
    whole = (tmp_path / "m.gguf").read_bytes()
    for length in (0, 3, 10, 60, len(whole) - 1):
        (tmp_path / "m.gguf").write_bytes(whole[:length])
        with pytest.raises(LoadError, match=r"m\.gguf.*truncated or corrupted"):
            stored_bits(staged(tmp_path, entry="m.gguf"))


def test_a_module_that_shows_no_layers_is_not_smaller_for_that() -> None:
    def report(*matrices: WeightMatrix, stored_bits: float | None = None) -> WeightReport:
        return WeightReport(matrices, stored_bits)

    embedding = WeightMatrix("embed", "embedding", (8, 8), "float32", 32, 0, 0.0)
    linear = WeightMatrix("layer", "linear", (8, 8), "float32", 32, 0, 0.0)
    original = report(embedding, linear)
    check_is_compressed(original, report(embedding, stored_bits=4.5))
    with pytest.raises(NotCompressedError, match="not compressed"):
        check_is_compressed(original, report(embedding, stored_bits=32.0))
