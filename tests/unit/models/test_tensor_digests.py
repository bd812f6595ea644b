"""``compsec pin --tensors``: an error then says which tensor changed."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_compsec.cli import main
from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import IntegrityError, LoadError
from pytest_compsec.models.integrity import local_location, pin_source
from pytest_compsec.models.listing import Location
from pytest_compsec.models.lock import FilePin, order_digest, read_lock
from pytest_compsec.models.pinning import pin
from pytest_compsec.models.tensors.explaining import explain_file
from pytest_compsec.models.tensors.layout import layout_of
from pytest_compsec.models.tensors.sidecar import SIDECAR_NAME, FileTable, table_of
from pytest_compsec.models.verification import verify_lock
from tests.unit.models.tiny_files import CONFIG, open_inputs, write_suite

OTHER_HEADER = (
    "the header differs (names, types, shapes or metadata) and may call any bytes by any name"
)
NAMES = ("a.weight", "b.weight", "c.bias", "empty")


def weights(
    contents: dict[str, bytes] | None = None, metadata: dict[str, str] | None = None
) -> bytes:
    """A safetensors file; by default of three float32 tensors and an empty one."""
    if contents is None:
        contents = {name: bytes([index]) * 32 for index, name in enumerate(NAMES[:3])}
        contents["empty"] = b""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    start = 0
    for name, content in contents.items():
        end = start + len(content)
        shape = [len(content) // 4]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(contents.values())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = write_suite(tmp_path)
    (tmp_path / "model" / "model.safetensors").write_bytes(weights())
    return path


@pytest.fixture
def model(config: Path) -> Path:
    return config.parent / "model" / "model.safetensors"


def flip(path: Path, tensor: str, offset: int = 5) -> None:
    """One bit of one tensor."""
    content = bytearray(path.read_bytes())
    layout = layout_of(path, path.name)
    assert layout is not None
    place = next(place for place in layout.tensors if place.name == tensor)
    content[place.start + offset] ^= 1
    path.write_bytes(bytes(content))


def said(config: Path) -> str:
    """What ``compsec verify`` says."""
    loaded = load_config(config)
    report = verify_lock(loaded, read_lock(loaded.lock_path))
    return "\n".join(problem.message for problem in report.problems)


def test_the_changed_tensor_is_named_by_verify_and_by_a_run(config: Path, model: Path) -> None:
    pin(config, tensors=True)
    assert said(config) == ""
    flip(model, "b.weight")
    assert "model.safetensors: is not what the lock pins" in said(config)
    assert said(config).endswith("1 of 4 tensors differ: b.weight")
    with pytest.raises(IntegrityError) as caught, open_inputs(config) as inputs:
        inputs.arm("assistant", None)
    assert "model.safetensors: 1 of 4 tensors differ: b.weight" in str(caught.value)
    assert main(["verify", "--config", str(config)]) == 1


def test_without_the_option_nothing_is_written_and_nothing_is_named(
    config: Path, model: Path
) -> None:
    pin(config)
    assert not config.with_name(SIDECAR_NAME).exists()
    flip(model, "b.weight")
    assert "is not what the lock pins" in said(config)
    assert "b.weight" not in said(config)


def test_the_choice_is_kept_until_it_is_taken_back(config: Path, model: Path) -> None:
    assert main(["pin", "--tensors", "--config", str(config)]) == 0
    sidecar = config.with_name(SIDECAR_NAME)
    first = sidecar.read_bytes()
    assert pin(config).changes == ()
    assert sidecar.read_bytes() == first
    flip(model, "c.bias")
    changes = "\n".join(pin(config).changes)
    assert f"changed  digests of tensors: {SIDECAR_NAME}" in changes
    assert sidecar.read_bytes() != first
    assert said(config) == ""
    assert main(["pin", "--no-tensors", "--config", str(config)]) == 0
    assert read_lock(config.with_name("compsec.lock")).tensors is None


@pytest.mark.parametrize("fault", ["edited", "gone"])
def test_a_sidecar_that_is_not_the_pinned_one_is_refused(config: Path, fault: str) -> None:
    pin(config, tensors=True)
    sidecar = config.with_name(SIDECAR_NAME)
    if fault == "edited":
        text = sidecar.read_text("utf-8")
        digest = hashlib.sha256(b"\x01" * 32).hexdigest()
        assert digest in text
        sidecar.write_text(text.replace(digest, "0" * 64), encoding="utf-8")
    else:
        sidecar.unlink()
    assert SIDECAR_NAME in said(config)
    with pytest.raises(IntegrityError, match=r"compsec\.tensors\.json"):
        open_inputs(config)


def test_a_sidecar_of_another_release_is_written_anew(config: Path) -> None:
    pin(config, tensors=True)
    sidecar, lock = config.with_name(SIDECAR_NAME), config.with_name("compsec.lock")
    before = sidecar.read_bytes()
    newer = before.replace(b'"version": 1', b'"version": 2')
    sidecar.write_bytes(newer)
    text = lock.read_text("utf-8")
    old, new = (hashlib.sha256(content).hexdigest() for content in (before, newer))
    lock.write_text(text.replace(old, new), encoding="utf-8")
    assert "this release reads version 1" in said(config)
    pin(config)
    assert sidecar.read_bytes() == before
    assert said(config) == ""


def test_an_edited_lock_entry_is_refused_too(config: Path) -> None:
    pin(config, tensors=True)
    lock = config.with_name("compsec.lock")
    pinned = read_lock(lock).tensors
    assert pinned is not None
    lock.write_text(lock.read_text("utf-8").replace(pinned.sha256, "0" * 64), encoding="utf-8")
    assert "is not what the lock pins" in said(config)


def test_digests_of_tensors_do_not_change_the_order_of_asking(config: Path) -> None:
    plain = pin(config).lock
    assert order_digest(pin(config, tensors=True).lock) == order_digest(plain)


def test_every_source_is_covered_and_files_twice_only_once(config: Path) -> None:
    config.write_text(CONFIG.replace("./other", "./model"), encoding="utf-8")
    pin(config, tensors=True)
    files = json.loads(config.with_name(SIDECAR_NAME).read_text("utf-8"))["files"]
    assert len(files) == 1
    config.write_text(CONFIG, encoding="utf-8")
    pin(config)
    files = json.loads(config.with_name(SIDECAR_NAME).read_text("utf-8"))["files"]
    other = config.parent / "other" / "model.safetensors"
    entry = files[hashlib.sha256(other.read_bytes()).hexdigest()]
    assert entry["tensors"]["w"] == {
        "dtype": "F32",
        "shape": [16],
        "bytes": [other.stat().st_size - 64, other.stat().st_size],
        "sha256": hashlib.sha256(b"\x01" * 64).hexdigest(),
    }


Pinned = tuple[Location, FilePin, FileTable]


@pytest.fixture
def pinned(tmp_path: Path) -> Pinned:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(weights())
    return pinned_table(tmp_path / "m")


def pinned_table(path: Path) -> Pinned:
    location = local_location(path)
    (file,) = pin_source(location, source="m").files
    table = table_of(location, file)
    assert table is not None
    return location, file, table


def explained(pinned: Pinned, content: bytes) -> str:
    location, file, table = pinned
    (location.directory / file.name).write_bytes(content)
    return explain_file(location, file.name, table, file.sha256)


def test_what_did_not_change_is_not_said(pinned: Pinned) -> None:
    assert explained(pinned, weights()) == ""


def test_other_metadata_are_told_from_other_tensors(pinned: Pinned) -> None:
    text = explained(pinned, weights(metadata={"format": "pt", "note": "x" * 50}))
    assert text == f"{OTHER_HEADER}; the pinned bytes of all 4 tensors are there"
    contents = dict(zip(NAMES, (b"\x00" * 32, b"\x09" * 32, b"\x02" * 32, b""), strict=True))
    text = explained(pinned, weights(contents, metadata={"format": "pt"}))
    assert text.startswith(OTHER_HEADER)
    assert text.endswith("1 of 4 tensors differ: b.weight")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.replace(b'"F32"', b'"I32"'),
        lambda content: content.replace(b"a.weight", b"x.weight"),
        lambda content: content.replace(b"[0, 32]", b"[8, 40]"),
        lambda content: (
            content.replace(b"a.weight", b"-").replace(b"b.weight", b"a.weight")
            .replace(b"-", b"b.weight")
        ),
        lambda content: relabelled(content),
    ],
    ids=["types", "a name", "places", "names exchanged", "other bytes under the old names"],
)  # fmt: skip
def test_another_header_is_never_said_to_leave_the_tensors_as_they_were(
    pinned: Pinned, change: Callable[[bytes], bytes]
) -> None:
    """Whatever the header calls them: its bytes are there, and nobody reads what they are now."""
    text = explained(pinned, change(weights()))
    assert text.startswith(OTHER_HEADER)
    assert "no tensor differs" not in text
    assert text.endswith("the pinned bytes of all 4 tensors are there")


def relabelled(content: bytes) -> bytes:
    """The old bytes where they were, and other ones behind them, which the header points to."""
    data = content[-96:]
    header = {
        name: {"dtype": "F32", "shape": [8], "data_offsets": [96 + 32 * index, 128 + 32 * index]}
        for index, name in enumerate(NAMES[:3])
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data + b"\x09" * 96


def test_a_truncated_file_names_what_is_cut_off(pinned: Pinned) -> None:
    text = explained(pinned, weights()[:-40])
    assert text == (
        "truncated, 40 bytes are missing; 3 of 4 tensors are cut off: b.weight, c.bias, empty"
    )


def test_extra_bytes_are_counted(pinned: Pinned) -> None:
    assert explained(pinned, weights() + b"x" * 7) == "7 extra bytes follow; no tensor differs"


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\xff" * 8, b"\xff" * 400, struct.pack("<Q", 1 << 60) + b"{" * 100,
     struct.pack("<Q", 10) + b"[" * 100_000],
)  # fmt: skip
def test_a_hostile_file_is_described_and_never_parsed(pinned: Pinned, content: bytes) -> None:
    assert "the header differs" in explained(pinned, content)


def test_only_some_of_many_names_are_shown(tmp_path: Path) -> None:
    contents = {f"t{index:02}": bytes([index]) * 4 for index in range(30)}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(weights(contents))
    changed = dict.fromkeys(contents, b"\xff" * 4)
    text = explained(pinned_table(tmp_path / "m"), weights(changed))
    assert text.startswith("30 of 30 tensors differ: t00, t01,")
    assert text.endswith("t09 and 20 more")


def hostile() -> Iterator[tuple[str, bytes]]:
    def file(entry: object, data: bytes = b"\x00" * 8, name: str = "w") -> bytes:
        text = json.dumps({name: entry}).encode()
        return struct.pack("<Q", len(text)) + text + data

    def entry(*offsets: object, shape: object = (2,), dtype: str = "F32") -> dict[str, object]:
        return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}

    yield "beyond the end", file(entry(0, 1 << 60, shape=[1 << 58]))
    yield "backwards", file(entry(8, 0, dtype="X9"))
    yield "negative", file(entry(-8, 0))
    yield "no number", file(entry("0", 8))
    yield "other shape", file(entry(0, 8, shape=[1 << 62, 1 << 62]))
    yield "no offsets", file({"dtype": "F32"})
    yield "not an object", file([])
    yield "nested", struct.pack("<Q", 200_000) + b"[" * 200_000
    yield "name is no text", file(entry(0, 8), name="\ud800")
    yield "type is no text", file(entry(0, 8, dtype="\ud800"))
    yield "type is an object", file({**entry(0, 8), "dtype": {}})
    yield "too many dimensions", file(entry(0, 8, shape=[1 << 62] * 200_000))
    yield "header beyond the end", struct.pack("<Q", 1 << 62) + b"{}"
    yield "twice", struct.pack("<Q", 16) + b'{"w":{},"w": {}}'
    overlap = json.dumps({"w": entry(0, 8), "v": entry(4, 12)}).encode()
    yield "overlap", struct.pack("<Q", len(overlap)) + overlap + bytes(12)


@pytest.mark.parametrize("fault", [name for name, _ in hostile()])
def test_a_hostile_header_is_refused_when_pinned(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(dict(hostile())[fault])
    with pytest.raises(LoadError, match=r"m\.safetensors: its header does not fit the file"):
        layout_of(path, "m.safetensors")


def test_the_tensors_of_a_gguf_file_are_told_apart_too(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for index in range(3):
        values = np.full((3, 5), index, dtype=np.float32)
        writer.add_tensor(f"blk.{index}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    pinned = pinned_table(path)
    original = path.read_bytes()
    places = {place.name: place for place in pinned[2].layout.tensors}
    assert list(places) == ["blk.0.weight", "blk.1.weight", "blk.2.weight"]
    assert places["blk.1.weight"].shape == (3, 5)

    changed = bytearray(original)
    changed[places["blk.1.weight"].start] ^= 1
    assert explained(pinned, bytes(changed)) == "1 of 3 tensors differ: blk.1.weight"
    changed = bytearray(original)
    changed[places["blk.0.weight"].end] ^= 1  # 60 bytes, padded to 64
    text = explained(pinned, bytes(changed))
    assert text == "no tensor differs; bytes between the tensors do"
    changed = bytearray(original)
    changed[30] ^= 1
    assert explained(pinned, bytes(changed)).startswith("the header differs")

    path.write_bytes(original[:60])
    with pytest.raises(LoadError, match="truncated or corrupted"):
        layout_of(path, path.name)
