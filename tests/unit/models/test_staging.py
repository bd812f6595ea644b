"""What a loader sees is what was hashed, whatever happens to the files in between."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.models import hashing, staging
from pytest_compsec.models.arm import StagedFiles
from pytest_compsec.models.hashing import OpenFile
from pytest_compsec.models.integrity import local_location, pin_source
from pytest_compsec.models.lock import SourcePin
from pytest_compsec.models.staging import Mode, Staging
from tests.unit.models.tiny_files import safetensors, write_model

Way = Literal["descriptor", "hard link", "fallback copy", "copy"]
WAYS: tuple[Way, ...] = ("descriptor", "hard link", "fallback copy", "copy")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def pinned(model: Path) -> SourcePin:
    return pin_source(local_location(model), source="./model")


@pytest.fixture(params=WAYS)
def stage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Path, SourcePin], StagedFiles]]:
    """Stage a directory in each of the ways that a platform may offer."""
    way: Way = request.param
    if way == "descriptor" and not sys.platform.startswith("linux"):
        pytest.skip("descriptors have names on Linux only")
    if way in ("hard link", "fallback copy"):
        monkeypatch.setattr(staging, "_descriptor_link", lambda file: None)
    if way == "fallback copy":
        monkeypatch.setattr(staging, "_hard_link", lambda file, target: False)
    root = tmp_path / "staging"
    root.mkdir()
    session = Staging("copy" if way == "copy" else "link", root)
    yield lambda folder, pin: session.stage(local_location(folder), pin)
    session.close()
    assert list(root.iterdir()) == []


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def replace(path: Path, data: bytes) -> None:
    """Put another file in a file's place, as an attacker (or an editor) does."""
    other = path.with_name("other.tmp")
    other.write_bytes(data)
    other.replace(path)


Stage = Callable[[Path, SourcePin], StagedFiles]


def test_the_staged_directory_holds_the_pinned_names_and_bytes(
    stage: Stage, model: Path, pinned: SourcePin
) -> None:
    notes = model / ".cache" / "huggingface"
    notes.mkdir(parents=True)
    (notes / "x.json").write_text("{}", encoding="utf-8")
    staged = stage(model, pinned)
    expected = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    assert contents(staged.directory) == expected
    assert staged.tree == pinned.tree
    staged.recheck()


def test_the_staging_directory_is_private(stage: Stage, model: Path, pinned: SourcePin) -> None:
    staged = stage(model, pinned)
    for folder in (staged.directory, staged.directory.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == os.getuid()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_swap_after_staging_changes_nothing_that_is_loaded(
    stage: Stage, model: Path, pinned: SourcePin, name: str
) -> None:
    staged = stage(model, pinned)
    before = (staged.directory / name).read_bytes()
    replace(model / name, safetensors(b"\x09" * 64))
    assert (staged.directory / name).read_bytes() == before
    (model / name).unlink()
    assert (staged.directory / name).read_bytes() == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_swap_between_hash_and_link_is_not_loaded(
    stage: Stage, model: Path, pinned: SourcePin, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment between the two is the attack; the loader never sees the other bytes."""
    real = staging._stage_file
    good = {path.name: path.read_bytes() for path in model.iterdir()}

    def swap(file: OpenFile, target: Path) -> object:
        if file.name == name:
            replace(model / name, b"X" * len(good[name]))
        return real(file, target)

    monkeypatch.setattr(staging, "_stage_file", swap)
    staged = stage(model, pinned)
    assert contents(staged.directory) == good


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_swap_between_listing_and_hash_is_refused(
    stage: Stage, model: Path, pinned: SourcePin, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hashing.open_and_hash

    def swap(*arguments: object) -> object:
        replace(model / name, b"X" * 10)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("pytest_compsec.models.integrity.open_and_hash", swap)
    with pytest.raises(IntegrityError, match=name):
        stage(model, pinned)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_write_into_the_file_after_hashing_is_noticed(
    stage: Stage, model: Path, pinned: SourcePin, name: str
) -> None:
    staged = stage(model, pinned)
    status = (model / name).stat()
    data = (model / name).read_bytes()
    with (model / name).open("r+b") as file:
        file.write(data[:-1] + b"X")
    # Even when the times are put back as they were.
    os.utime(model / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(IntegrityError, match=rf"{name}: was changed after it was verified"):
        staged.recheck()


def test_a_write_while_it_is_being_read_is_noticed(
    stage: Stage, model: Path, pinned: SourcePin, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hashing._read_through

    def write(descriptor: int, take: Callable[[bytes], object]) -> tuple[bytes, int]:
        result = real(descriptor, take)
        with (model / "model.safetensors").open("ab") as file:
            file.write(b"more")
        return result

    monkeypatch.setattr(hashing, "_read_through", write)
    with pytest.raises(IntegrityError, match="written to while it was being read"):
        stage(model, pinned)


def test_touching_the_mode_or_adding_a_link_is_no_change(
    stage: Stage, model: Path, pinned: SourcePin, tmp_path: Path
) -> None:
    """Backups and other workers do such things; the content is hashed again and is the same."""
    staged = stage(model, pinned)
    (tmp_path / "backup").hardlink_to(model / "model.safetensors")
    (model / "config.json").chmod(0o600)
    staged.recheck()
    staged.recheck()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_staged_entry_that_is_replaced_is_noticed(
    stage: Stage, model: Path, pinned: SourcePin, name: str
) -> None:
    staged = stage(model, pinned)
    data = (staged.directory / name).read_bytes()
    replace(staged.directory / name, data)
    with pytest.raises(IntegrityError, match="was replaced"):
        staged.recheck()


def test_a_staged_entry_that_is_removed_or_added_is_noticed(
    stage: Stage, model: Path, pinned: SourcePin
) -> None:
    staged = stage(model, pinned)
    (staged.directory / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"files were added.*adapter_config\.json"):
        staged.recheck()
    (staged.directory / "adapter_config.json").unlink()
    staged.recheck()
    (staged.directory / "config.json").unlink()
    with pytest.raises(IntegrityError, match="was replaced"):
        staged.recheck()


def test_a_mismatch_stages_nothing(stage: Stage, model: Path, pinned: SourcePin) -> None:
    (model / "model.safetensors").write_bytes(safetensors(b"\x05" * 64))
    with pytest.raises(IntegrityError, match="compsec pin"):
        stage(model, pinned)


def test_subdirectories_are_staged(stage: Stage, model: Path) -> None:
    folder = model / "additional_chat_templates"
    folder.mkdir()
    (folder / "tool.jinja").write_text("x", encoding="utf-8")
    staged = stage(model, pin_source(local_location(model), source="./model"))
    assert (staged.directory / "additional_chat_templates" / "tool.jinja").read_text() == "x"
    staged.recheck()


def test_link_mode_copies_no_weights_and_copy_mode_copies_all(
    model: Path, pinned: SourcePin, tmp_path: Path
) -> None:
    inode = (model / "model.safetensors").stat().st_ino
    modes: tuple[tuple[Mode, bool], ...] = (("link", True), ("copy", False))
    for mode, same in modes:
        session = Staging(mode, tmp_path)
        staged = session.stage(local_location(model), pinned)
        assert ((staged.directory / "model.safetensors").stat().st_ino == inode) is same
        assert (staged.directory / "config.json").stat().st_ino != (
            model / "config.json"
        ).stat().st_ino
        session.close()


def test_linking_leaves_the_model_untouched(model: Path, pinned: SourcePin, tmp_path: Path) -> None:
    """Several workers stage one file: what one does must not look like a change to another."""
    if not sys.platform.startswith("linux"):
        pytest.skip("descriptors have names on Linux only")
    before = (model / "model.safetensors").stat()
    session = Staging("link", tmp_path)
    session.stage(local_location(model), pinned)
    session.close()
    after = (model / "model.safetensors").stat()
    assert (after.st_ctime_ns, after.st_nlink) == (before.st_ctime_ns, before.st_nlink)


def test_each_file_is_hashed_once(
    model: Path, pinned: SourcePin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    real = hashing._read_through

    def counted(descriptor: int, take: Callable[[bytes], object]) -> tuple[bytes, int]:
        nonlocal count
        count += 1
        return real(descriptor, take)

    monkeypatch.setattr(hashing, "_read_through", counted)
    modes: tuple[Mode, ...] = ("link", "copy")
    for mode in modes:
        count = 0
        session = Staging(mode, tmp_path)
        staged = session.stage(local_location(model), pinned)
        for _ in range(5):
            staged.recheck()
        assert count == len(pinned.files)
        session.close()


def test_after_close_nothing_can_be_rechecked(
    model: Path, pinned: SourcePin, tmp_path: Path
) -> None:
    session = Staging("link", tmp_path)
    staged = session.stage(local_location(model), pinned)
    session.close()
    session.close()
    with pytest.raises(IntegrityError, match="are closed"):
        staged.recheck()


def test_the_directory_is_removed_when_the_process_ends_without_close(
    model: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    code = (
        "import sys; from pathlib import Path\n"
        "from pytest_compsec.models.staging import Staging\n"
        "from pytest_compsec.models.integrity import local_location, pin_source\n"
        "location = local_location(sys.argv[1])\n"
        "session = Staging('copy', Path(sys.argv[2]))\n"
        "session.stage(location, pin_source(location, source='m'))\n"
        "assert list(Path(sys.argv[2]).iterdir())\n"
    )
    subprocess.run([sys.executable, "-c", code, str(model), str(root)], check=True)
    assert list(root.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_leaves_its_parents_files_alone(
    model: Path, pinned: SourcePin, tmp_path: Path
) -> None:
    session = Staging("link", tmp_path)
    staged = session.stage(local_location(model), pinned)
    child = os.fork()
    if child == 0:
        session.close()
        os._exit(0)
    os.waitpid(child, 0)
    staged.recheck()
    session.close()


def test_a_full_disk_says_where_and_what_to_do(
    model: Path, pinned: SourcePin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, chunk: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hashing._Writer, "write", fail)
    session = Staging("copy", tmp_path)
    with pytest.raises(CompsecError, match=r"No space left on device.*TMPDIR"):
        session.stage(local_location(model), pinned)
    session.close()


def test_a_staging_root_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(CompsecError, match="TMPDIR"):
        Staging("link", tmp_path / "nothing")
