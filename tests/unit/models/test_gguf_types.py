"""GGUF files of each block type: what bits they hold, and which weights come out of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pytest_compsec.errors import LoadError, NotCompressedError
from pytest_compsec.models.gguf_weights import measure_gguf
from pytest_compsec.models.loaded import LoadedModel
from pytest_compsec.models.loading import load
from pytest_compsec.models.weights import check_is_compressed
from tests.unit.models.tiny_gguf import BITS, HEAD, HIDDEN, write_tiny_gguf
from tests.unit.tiny_model import make_arm, staged

gguf = pytest.importorskip("gguf")

Blocks = dict[str, npt.NDArray[np.uint8]]
ENTRY = "m.gguf"
#: Where each matrix of the file is in the module.
PLACES = {
    "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight",
    "blk.0.attn_k.weight": "model.layers.0.self_attn.k_proj.weight",
    "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
    "blk.0.attn_output.weight": "model.layers.0.self_attn.o_proj.weight",
    "blk.0.ffn_gate.weight": "model.layers.0.mlp.gate_proj.weight",
    "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj.weight",
    "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
}


def open_file(directory: Path) -> LoadedModel:
    return load(make_arm(directory, files=staged(directory, entry=ENTRY)))


def weights_of(model: LoadedModel, name: str) -> npt.NDArray[np.float32]:
    state: dict[str, Any] = dict(model.module.named_parameters())
    weights: npt.NDArray[np.float32] = state[PLACES[name]].detach().numpy()
    return weights


def as_in_the_module(name: str, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The format rotates neighbouring rows of queries and keys (2i, 2i + 1), transformers row i
    with row i + half a head."""
    if "attn_q" not in name and "attn_k" not in name:
        return rows
    order = [
        head + row
        for head in range(0, len(rows), HEAD)
        for row in (*range(0, HEAD, 2), *range(1, HEAD, 2))
    ]
    return rows[order]


@pytest.fixture(scope="module", params=sorted(BITS))
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Blocks, LoadedModel]:
    kind = str(request.param)
    directory = tmp_path_factory.mktemp(kind)
    blocks = write_tiny_gguf(directory / ENTRY, kind)
    return kind, directory, blocks, open_file(directory)


def test_a_file_shows_the_bits_that_it_stores(
    opened: tuple[str, Path, Blocks, LoadedModel],
) -> None:
    kind, directory, _, model = opened
    total, codes = BITS[kind]
    assert model.weights.stored_bits == total
    assert model.weights.bits == 32.0  # Unpacked in memory.

    report = measure_gguf(staged(directory, entry=ENTRY))
    assert report.stored_bits == total
    linear = report.of("linear")
    assert {matrix.name for matrix in linear} == set(PLACES)
    assert {(m.storage, m.bits, m.bits + m.overhead_bits) for m in linear} == {(kind, codes, total)}
    assert report.elements == model.weights.elements
    (words,) = report.of("embedding")
    assert (words.storage, words.bits, words.overhead_bits) == ("F16", 16.0, 0.0)
    assert [m.shape for m in linear if m.name == "blk.0.ffn_down.weight"] == [(HIDDEN, 512)]


def test_the_module_computes_with_the_weights_that_the_blocks_stand_for(
    opened: tuple[str, Path, Blocks, LoadedModel],
) -> None:
    kind, _, blocks, model = opened
    for name, rows in blocks.items():
        dense = gguf.dequantize(rows, gguf.GGMLQuantizationType[kind])
        assert 0.05 < dense.std() < 0.2, "these blocks stand for no weights worth the name"
        found = weights_of(model, name)
        assert np.array_equal(found, as_in_the_module(name, dense)), name


def test_one_changed_byte_changes_one_row(
    opened: tuple[str, Path, Blocks, LoadedModel], tmp_path: Path
) -> None:
    kind, _, blocks, model = opened
    rows = blocks["blk.0.attn_q.weight"].copy()
    rows[3, 20] ^= 0x11  # A byte of codes or of scales, whatever the type.
    write_tiny_gguf(tmp_path / ENTRY, kind, replaced={"blk.0.attn_q.weight": rows})
    changed = open_file(tmp_path)
    for name in PLACES:
        differs = (weights_of(model, name) != weights_of(changed, name)).any(axis=1)
        # Row 3 of the file is the second odd row of its head.
        assert differs.nonzero()[0].tolist() == ([HEAD // 2 + 1] if "attn_q" in name else [])


# The blocks as the format's description has them, written down once more: what unpacks them above
# is the library that packed them.


def half(block: bytes, offset: int) -> np.float32:
    value: np.float32 = np.frombuffer(block, np.float16, 1, offset).astype(np.float32)[0]
    return value


def q8_0(block: bytes) -> list[np.float32]:
    return [half(block, 0) * np.int8(np.uint8(byte)) for byte in block[2:]]


def q4_0(block: bytes) -> list[np.float32]:
    codes = [byte & 15 for byte in block[2:]] + [byte >> 4 for byte in block[2:]]
    return [half(block, 0) * np.float32(code - 8) for code in codes]


def q4_1(block: bytes) -> list[np.float32]:
    codes = [byte & 15 for byte in block[4:]] + [byte >> 4 for byte in block[4:]]
    return [half(block, 0) * np.float32(code) + half(block, 2) for code in codes]


def q5_0(block: bytes) -> list[np.float32]:
    fifth = int.from_bytes(block[2:6], "little")
    codes = [byte & 15 for byte in block[6:]] + [byte >> 4 for byte in block[6:]]
    return [
        half(block, 0) * np.float32((code | (fifth >> place & 1) << 4) - 16)
        for place, code in enumerate(codes)
    ]


def q6_k(block: bytes) -> list[np.float32]:
    low, high, scales = block[:128], block[128:192], np.frombuffer(block[192:208], np.int8)
    weights = []
    for place in range(256):
        part, rest = divmod(place, 128)
        quarter, lane = divmod(rest, 32)
        nibble = low[64 * part + 32 * (quarter % 2) + lane] >> 4 * (quarter // 2) & 15
        code = nibble | (high[32 * part + lane] >> 2 * quarter & 3) << 4
        weights.append(half(block, 208) * np.float32(scales[place // 16]) * np.float32(code - 32))
    return weights


@pytest.mark.parametrize(
    ("kind", "unpack"),
    [("Q8_0", q8_0), ("Q4_0", q4_0), ("Q4_1", q4_1), ("Q5_0", q5_0), ("Q6_K", q6_k)],
)
def test_a_block_stands_for_the_weights_of_the_format(
    kind: str, unpack: Callable[[bytes], list[np.float32]], tmp_path: Path
) -> None:
    blocks = write_tiny_gguf(tmp_path / ENTRY, kind)["blk.0.ffn_down.weight"]
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    row = blocks[5].tobytes()
    expected = [
        weight for start in range(0, len(row), size) for weight in unpack(row[start : start + size])
    ]
    found = weights_of(open_file(tmp_path), "blk.0.ffn_down.weight")[5]
    assert np.allclose(found, expected, rtol=1e-6, atol=0.0)


def test_zeros_are_counted_in_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several pieces, the last of them shorter.
    monkeypatch.setattr("pytest_compsec.models.gguf_weights._PIECE", 100 * HIDDEN)
    blocks = write_tiny_gguf(tmp_path / ENTRY, "Q8_0")
    rows = blocks["blk.0.ffn_up.weight"].copy()
    rows[: len(rows) // 4, :] = 0
    write_tiny_gguf(tmp_path / ENTRY, "Q8_0", replaced={"blk.0.ffn_up.weight": rows})
    report = measure_gguf(staged(tmp_path, entry=ENTRY))
    zeros = {matrix.name: matrix.zeros for matrix in report.matrices}
    dense = gguf.dequantize(rows, gguf.GGMLQuantizationType.Q8_0)
    assert zeros["blk.0.ffn_up.weight"] == 1.0 - np.count_nonzero(dense) / dense.size
    assert zeros["blk.0.ffn_up.weight"] >= 0.25 > 0.02 > zeros["blk.0.ffn_gate.weight"]


def test_fewer_bits_in_the_file_are_a_compression_and_the_same_are_none(tmp_path: Path) -> None:
    reports = {}
    for kind in ("Q8_0", "Q4_K"):
        (tmp_path / kind).mkdir()
        write_tiny_gguf(tmp_path / kind / ENTRY, kind)
        reports[kind] = measure_gguf(staged(tmp_path / kind, entry=ENTRY))
    check_is_compressed(reports["Q8_0"], reports["Q4_K"])
    for kind in ("Q8_0", "Q4_K"):
        with pytest.raises(NotCompressedError):
            check_is_compressed(reports[kind], reports[kind])


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_truncated_file_is_an_error(tmp_path: Path, share: float) -> None:
    write_tiny_gguf(tmp_path / ENTRY, "Q4_K")
    whole = (tmp_path / ENTRY).read_bytes()
    (tmp_path / ENTRY).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(LoadError, match=r"tiny \("):
        open_file(tmp_path)
    with pytest.raises(LoadError, match=r"m\.gguf.*truncated or corrupted"):
        measure_gguf(staged(tmp_path, entry=ENTRY))
