"""Nothing but the pinned bytes: every way in which a model directory can be wrong."""

from __future__ import annotations

import io
import os
import pickle
import socket
import zipfile
from pathlib import Path

import pytest

from pytest_compsec.errors import IntegrityError
from pytest_compsec.models.integrity import local_location, pin_source, tree_digest, verify
from pytest_compsec.models.listing import Problem
from pytest_compsec.models.lock import SourcePin
from pytest_compsec.models.roles import role_of
from tests.unit.models.tiny_files import safetensors, write_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def pinned(model: Path) -> SourcePin:
    return pin_source(local_location(model), source="./model")


def only(problems: tuple[Problem, ...]) -> Problem:
    assert len(problems) == 1, [problem.message for problem in problems]
    return problems[0]


def test_an_untouched_directory_has_no_problems(model: Path, pinned: SourcePin) -> None:
    assert verify(model, pinned) == ()


def test_a_flipped_byte_names_the_file_and_both_digests(model: Path, pinned: SourcePin) -> None:
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    problem = only(verify(model, pinned))
    assert problem.kind == "changed"
    assert problem.expected in problem.message  # type: ignore[operator]
    assert problem.found in problem.message  # type: ignore[operator]
    assert problem.expected != problem.found
    assert "model.safetensors" in problem.message


@pytest.mark.parametrize(
    "name",
    [
        "extra.json",
        "adapter_config.json",
        ".hidden",
        "sub/extra.json",
        "custom_generate/generate.py",
        ".git/x.py",
        ".git/config",
        ".cache/other/x.json",
        ".cache/huggingface.json",
        "sub/.cache/huggingface/x.json",
    ],
)
def test_an_added_file_is_refused(model: Path, pinned: SourcePin, name: str) -> None:
    path = model / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}", encoding="utf-8")
    problem = only(verify(model, pinned))
    assert problem.kind in ("extra", "refused")
    assert problem.file == name
    assert name in problem.message


def test_hidden_directories_are_not_pinned_either(model: Path) -> None:
    """A cloned repository: `.git` changes with every command, and is no part of the model."""
    (model / ".git").mkdir()
    (model / ".git" / "HEAD").write_text("ref: refs/heads/main", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"hidden directory \.git .*hf download"):
        tree_digest(model)


def test_the_notes_of_hf_download_are_passed_over(model: Path, pinned: SourcePin) -> None:
    notes = model / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "config.json.metadata").write_text("x", encoding="utf-8")
    assert verify(model, pinned) == ()


def test_a_removed_file_is_named(model: Path, pinned: SourcePin) -> None:
    (model / "tokenizer.json").unlink()
    problem = only(verify(model, pinned))
    assert (problem.kind, problem.file) == ("missing", "tokenizer.json")


def test_a_renamed_file_is_one_extra_and_one_missing(model: Path, pinned: SourcePin) -> None:
    (model / "tokenizer.json").rename(model / "tokenizer2.json")
    assert {problem.kind for problem in verify(model, pinned)} == {"extra", "missing"}


def test_every_problem_is_told_at_once(model: Path, pinned: SourcePin) -> None:
    (model / "config.json").write_text("{ }", encoding="utf-8")
    (model / "tokenizer.json").unlink()
    (model / "x.py").write_text("", encoding="utf-8")
    (model / "y.json").write_text("{}", encoding="utf-8")
    kinds = sorted(problem.kind for problem in verify(model, pinned))
    assert kinds == ["changed", "extra", "missing", "refused"]


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.pt", "rng_state.pth", "m.ckpt", "m.pkl", "m.msgpack", "m.h5",
     "M.BIN", "sub/training_args.bin"],
)  # fmt: skip
def test_pickled_weights_are_refused_by_name(model: Path, name: str) -> None:
    path = model / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"harmless")
    with pytest.raises(IntegrityError, match="safetensors") as caught:
        pin_source(local_location(model), source="./model")
    assert name in str(caught.value)


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.safetensors", pickle.dumps({"w": [1.0]}, protocol=2)),
        ("model.safetensors", pickle.dumps({"w": [1.0]}, protocol=5)),
        ("model.safetensors", _zip()),
        ("tokenizer.json", pickle.dumps([], protocol=4)),
        ("weights.gguf", b"\x89HDF\r\n\x1a\n" + b"\0" * 64),
        ("other.dat", b"\0" * 257 + b"ustar" + b"\0" * 300),
    ],
)
def test_pickles_are_refused_by_their_bytes_under_any_name(
    model: Path, name: str, data: bytes
) -> None:
    (model / name).write_bytes(data)
    with pytest.raises(IntegrityError, match="whatever its name says"):
        pin_source(local_location(model), source="./model")


def test_a_safetensors_header_may_begin_like_a_pickle(model: Path) -> None:
    """A header of 0x280 bytes begins with the bytes 80 02, as a pickle does."""
    header = b'{"__metadata__":{"a":"' + b"x" * 1000
    header = header[: 0x280 - 3] + b'"}}'
    (model / "model.safetensors").write_bytes((0x280).to_bytes(8, "little") + header)
    pin_source(local_location(model), source="./model")


def test_code_is_refused_with_its_reason(model: Path) -> None:
    (model / "modeling_custom.py").write_text("", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"modeling_custom\.py: is code.*trust_remote_code"):
        pin_source(local_location(model), source="./model")


def test_a_git_lfs_pointer_gets_its_own_error(model: Path, pinned: SourcePin) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 538090408\n"
    (model / "model.safetensors").write_text(pointer, encoding="utf-8")
    assert "git lfs pull" in only(verify(model, pinned)).message
    with pytest.raises(IntegrityError, match="git-LFS pointer"):
        tree_digest(model)


def test_empty_weights_are_refused(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"")
    with pytest.raises(IntegrityError, match="is empty"):
        tree_digest(model)


def test_a_directory_without_weights_is_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(IntegrityError, match="no weights"):
        tree_digest(model)


@pytest.mark.parametrize("name", ["a\nb.json", "a\x1b[2Jb.json", "a\u202eb.json", "a\\b.json"])
def test_names_that_a_terminal_would_obey_are_refused_and_escaped(model: Path, name: str) -> None:
    (model / name).write_text("{}", encoding="utf-8")
    with pytest.raises(IntegrityError) as caught:
        tree_digest(model)
    shown = str(caught.value).splitlines()[0]
    assert "control character" in shown
    assert shown.isprintable()


def test_a_name_that_is_not_utf8_is_refused(model: Path) -> None:
    path = os.fsencode(model) + b"/\xff.json"
    try:
        Path(os.fsdecode(path)).write_text("{}", encoding="utf-8")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(IntegrityError, match="not UTF-8"):
        tree_digest(model)


def test_a_pipe_is_refused_without_waiting_for_a_writer(model: Path, pinned: SourcePin) -> None:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")
    assert "no regular file" in only(verify(model, pinned)).message


def test_a_pipe_put_there_after_the_listing_does_not_hang(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def swap(path: str, flags: int, *rest: int) -> int:
        if str(path).endswith("config.json"):
            Path(path).unlink()
            os.mkfifo(path)
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(IntegrityError, match="no regular file"):
        tree_digest(model)


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_model(tmp_path / "m")
    monkeypatch.chdir(model)  # the name of a socket has a short limit
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.json")
        with pytest.raises(IntegrityError, match="no regular file"):
            tree_digest(model)


@pytest.mark.parametrize("target", ["inside", "outside", "directory", "dangling"])
def test_links_are_refused(model: Path, tmp_path: Path, target: str) -> None:
    outside = tmp_path / "outside"
    write_model(outside)
    targets = {
        "inside": model / "tokenizer.json",
        "outside": outside / "config.json",
        "directory": outside,
        "dangling": tmp_path / "nothing",
    }
    (model / "link.json").symlink_to(targets[target])
    with pytest.raises(IntegrityError, match=r"link\.json: is a link to"):
        tree_digest(model)


def test_a_link_put_there_after_the_listing_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}", encoding="utf-8")
    from pytest_compsec.models import hashing

    real = hashing.open_and_hash

    def swap(*arguments: object) -> object:
        (model / "config.json").unlink()
        (model / "config.json").symlink_to(secret)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("pytest_compsec.models.integrity.open_and_hash", swap)
    with pytest.raises(IntegrityError, match="through a link"):
        tree_digest(model)


def hub_cache(root: Path) -> Path:
    """A snapshot as the hub's client lays it out: links into blobs. Returns the snapshot."""
    repository = root / "models--org--name"
    blobs = repository / "blobs"
    blobs.mkdir(parents=True)
    snapshot = repository / "snapshots" / COMMIT
    source = write_model(root / "source")
    snapshot.mkdir(parents=True)
    for path in source.iterdir():
        (blobs / f"blob-{path.name}").write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", f"blob-{path.name}"))
    return snapshot


def test_links_of_a_hub_cache_into_its_own_blobs_are_accepted(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    assert tree_digest(snapshot) == tree_digest(tmp_path / "source")


@pytest.mark.parametrize("where", ["other repository", "outside", "beside blobs", "below blobs"])
def test_links_of_a_hub_cache_to_elsewhere_are_refused(tmp_path: Path, where: str) -> None:
    snapshot = hub_cache(tmp_path)
    repository = snapshot.parent.parent
    target = {
        "other repository": tmp_path / "models--org--other" / "blobs" / "x",
        "outside": tmp_path / "x",
        "beside blobs": repository / "x",
        "below blobs": repository / "blobs" / "sub" / "x",
    }[where]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("{}", encoding="utf-8")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(target)
    with pytest.raises(IntegrityError, match=r"config\.json: is a link to"):
        tree_digest(snapshot)


def test_a_blob_that_leads_out_of_the_cache_is_refused(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    blob = snapshot.parent.parent / "blobs" / "blob-config.json"
    (tmp_path / "x").write_bytes(blob.read_bytes())
    blob.unlink()
    blob.symlink_to(tmp_path / "x")
    with pytest.raises(IntegrityError, match=r"config\.json: is a link to"):
        tree_digest(snapshot)


def test_a_link_to_a_blob_that_is_gone_says_download_again(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    (snapshot.parent.parent / "blobs" / "blob-config.json").unlink()
    with pytest.raises(IntegrityError, match="Download the model again"):
        tree_digest(snapshot)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_unreadable_directories_and_files_are_named(model: Path) -> None:
    (model / "sub").mkdir(mode=0o000)
    try:
        with pytest.raises(IntegrityError, match="sub: the directory cannot be read"):
            tree_digest(model)
    finally:
        (model / "sub").chmod(0o700)


def test_an_unreadable_directory_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the one above, for those who run tests as root."""
    (model / "sub").mkdir()
    real = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(IntegrityError, match="sub: the directory cannot be read"):
        tree_digest(model)


def test_the_tree_digest_binds_names_and_contents(tmp_path: Path) -> None:
    first = tree_digest(write_model(tmp_path / "a"))
    assert tree_digest(write_model(tmp_path / "b")) == first  # not the directory's own name
    renamed = write_model(tmp_path / "c")
    (renamed / "tokenizer.json").rename(renamed / "tokenizer2.json")
    changed = write_model(tmp_path / "d")
    (changed / "tokenizer.json").write_text("[]", encoding="utf-8")
    swapped = write_model(tmp_path / "e")
    (swapped / "tokenizer.json").write_bytes((tmp_path / "a" / "config.json").read_bytes())
    (swapped / "config.json").write_bytes((tmp_path / "a" / "tokenizer.json").read_bytes())
    digests = {first, *(tree_digest(path) for path in (renamed, changed, swapped))}
    assert len(digests) == 4


def test_one_gguf_file_is_pinned_without_its_neighbours(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + b"\0" * 100)
    (tmp_path / "evil.py").write_text("", encoding="utf-8")
    pin = pin_source(local_location(file), source="./m.gguf")
    assert [item.name for item in pin.files] == ["m.gguf"]
    assert pin.entry == "m.gguf"
    assert verify(file, pin) == ()
    file.unlink()
    assert only(verify(file, pin)).kind == "missing"


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model-00001-of-00002.safetensors", "weights"),
        ("m.Q4_K_M.gguf", "weights"),
        ("config.json", "config"),
        ("model.safetensors.index.json", "config"),
        ("tokenizer.json", "tokenizer"),
        ("merges.txt", "tokenizer"),
        ("tokenizer.model", "tokenizer"),
        ("chat_template.jinja", "template"),
        ("additional_chat_templates/tool.jinja", "template"),
        ("README.md", "other"),
    ],
)
def test_roles(name: str, role: str) -> None:
    assert role_of(name) == role
    if role == "weights":
        assert role_of(name, adapter=True) == "adapter"


def test_hashing_is_right_for_files_larger_than_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    from pytest_compsec.models import hashing

    monkeypatch.setattr(hashing, "CHUNK_BYTES", 1000)
    model = write_model(tmp_path / "m", payload=bytes(range(256)) * 20)
    pin = pin_source(local_location(model), source="./m")
    for file in pin.files:
        data = (model / file.name).read_bytes()
        assert (file.sha256, file.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert safetensors(bytes(range(256)) * 20) == (model / "model.safetensors").read_bytes()
