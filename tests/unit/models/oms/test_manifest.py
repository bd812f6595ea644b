"""The files of a signed directory: all of them are signed, and no others are there."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from pytest_compsec.errors import IntegrityError
from pytest_compsec.models.hashing import OpenFile
from pytest_compsec.models.integrity import local_location, pin_source
from pytest_compsec.models.listing import Problem
from pytest_compsec.models.lock import FilePin
from pytest_compsec.models.oms.bundle import read_bundle
from pytest_compsec.models.oms.manifest import compare_manifest
from pytest_compsec.models.oms.statement import parse_statement
from tests.unit.models.oms.signers import (
    DATA,
    check,
    digests,
    parts,
    public_pem,
    shards,
    signed,
    statement,
)
from tests.unit.models.tiny_files import safetensors, write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "key.pub").write_bytes(public_pem())
    return write_model(tmp_path / "model")


def sign(model: Path, left_out: str = "", ignore: tuple[str, ...] = ()) -> None:
    files = digests(model, lambda name: name == left_out)
    text = signed(statement(files, **({"ignore_paths": list(ignore)} if ignore else {})))
    (model / "model.sig").write_text(text, encoding="utf-8")


def test_an_unsigned_file_is_refused(model: Path) -> None:
    sign(model)
    check(model, key="key.pub")
    (model / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"adapter_config\.json: is not covered by the sig"):
        check(model, key="key.pub")


def test_a_signed_file_that_is_missing_is_refused(model: Path) -> None:
    sign(model)
    (model / "tokenizer.json").unlink()
    with pytest.raises(IntegrityError, match=r"tokenizer\.json: is signed .* and missing"):
        check(model, key="key.pub")


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "bpe.codes",
     "sub/README.md", "readme.json"],
)  # fmt: skip
@pytest.mark.parametrize("whole_directory", [False, True])
def test_a_file_that_a_loader_may_open_cannot_be_left_out(
    model: Path, name: str, whole_directory: bool
) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    if not (model / name).exists():
        (model / name).write_text("x", encoding="utf-8")
    sign(model, left_out=name, ignore=(name.split("/")[0] if whole_directory else name,))
    with pytest.raises(IntegrityError, match=r"left out of .* on purpose"):
        check(model, key="key.pub")


@pytest.mark.parametrize("name", [".gitattributes", ".gitignore", "README.md", "LICENSE", "b.sig"])
def test_a_file_that_no_loader_opens_may_be_left_out_and_only_on_purpose(
    model: Path, name: str
) -> None:
    (model / name).write_text("x", encoding="utf-8")
    sign(model, left_out=name, ignore=(name,))
    check(model, key="key.pub")
    sign(model, left_out=name)
    with pytest.raises(IntegrityError, match="is not covered"):
        check(model, key="key.pub")


def test_code_under_git_which_model_signing_passes_over_is_refused(model: Path) -> None:
    (model / ".git").mkdir()
    sign_later = model / ".git" / "x.txt"
    sign(model, ignore=(".git",))
    sign_later.write_text("x", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"hidden directory \.git"):
        check(model, key="key.pub")


def test_a_link_is_refused_though_its_target_is_what_was_signed(model: Path) -> None:
    sign(model)
    target = model.parent / "elsewhere.json"
    (model / "config.json").rename(target)
    (model / "config.json").symlink_to(target)
    with pytest.raises(IntegrityError, match=r"config\.json: is a link"):
        check(model, key="key.pub")


def test_a_signature_cannot_cover_itself(model: Path) -> None:
    files = {**digests(model), "model.sig": "0" * 64}
    (model / "model.sig").write_text(signed(statement(files)), encoding="utf-8")
    with pytest.raises(IntegrityError, match="claims to cover itself"):
        check(model, key="key.pub")


@pytest.mark.parametrize("listed", [".", "tiny.gguf"])
def test_one_file_is_called_by_its_name_or_by_a_dot(tmp_path: Path, listed: str) -> None:
    (tmp_path / "key.pub").write_bytes(public_pem())
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF" + bytes(60))
    digest = digests(file)["tiny.gguf"]
    (tmp_path / "tiny.gguf.sig").write_text(signed(statement({listed: digest})), encoding="utf-8")
    check(file, key="key.pub")
    file.write_bytes(b"GGUF" + bytes(61))
    with pytest.raises(IntegrityError, match="is not the file that was signed"):
        check(file, key="key.pub")


def test_one_file_listed_by_both_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_bytes(public_pem())
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF" + bytes(60))
    digest = digests(file)["tiny.gguf"]
    both = statement({".": digest, "tiny.gguf": "0" * 64})
    (tmp_path / "tiny.gguf.sig").write_text(signed(both), encoding="utf-8")
    with pytest.raises(IntegrityError, match="is listed twice"):
        check(file, key="key.pub")


def test_a_file_of_a_signed_directory_is_covered_by_that_signature(model: Path) -> None:
    (model / "a.gguf").write_bytes(b"GGUF" + bytes(60))
    sign(model)
    check(model / "a.gguf", key="../key.pub", file="model.sig")
    (model / "b.gguf").write_bytes(b"GGUF" + bytes(61))
    with pytest.raises(IntegrityError, match=r"b\.gguf: is not covered"):
        check(model / "b.gguf", key="../key.pub", file="model.sig")


def test_the_same_signature_elsewhere_is_fine_and_one_that_is_missing_is_not(model: Path) -> None:
    sign(model)
    (model / "model.sig").rename(model.parent / "release.sig")
    check(model, key="key.pub", file="release.sig")
    with pytest.raises(IntegrityError, match=r"model\.sig' cannot be read"):
        check(model, key="key.pub")


def test_other_weights_are_named_with_both_digests(model: Path) -> None:
    sign(model)
    before = digests(model)["model.safetensors"]
    (model / "model.safetensors").write_bytes(safetensors(b"\x07" * 64))
    after = digests(model)["model.safetensors"]
    with pytest.raises(IntegrityError, match="Nothing was pinned") as caught:
        check(model, key="key.pub")
    assert f"signed sha256 {before}" in str(caught.value)
    assert f"found  sha256 {after}" in str(caught.value)


def test_what_is_hashed_in_another_way_must_still_be_the_pinned_bytes() -> None:
    """Between the pin's digest and the signature's, a file must not become another."""
    recorded = DATA / "model-signing-1.1.1"
    bundle = read_bundle((recorded / "files-blake2b.sig").read_bytes(), "model.sig")
    pins = pin_source(local_location(recorded / "model"), source="model", holds_weights=False).files

    def compare(files: tuple[FilePin, ...]) -> list[Problem]:
        return compare_manifest(
            parse_statement(bundle.envelope.payload, "model.sig"),
            files,
            where="model.sig",
            open_file=lambda name: OpenFile(local_location(recorded / "model"), name),
        )

    assert compare(pins) == []
    problems = compare(tuple(dataclasses.replace(pin, sha256="0" * 64) for pin in pins))
    assert [problem.file for problem in problems] == [pin.name for pin in pins]
    for problem in problems:
        assert "is no longer the pinned file, so it is not compared with" in problem.message


@pytest.mark.parametrize("size", [1, 13, 14, 15, 1 << 40])
def test_a_last_shard_may_be_whole_or_not(model: Path, size: int) -> None:
    assert (model / "chat_template.jinja").stat().st_size == 14
    (model / "model.sig").write_text(shards(model, size), encoding="utf-8")
    check(model, key="key.pub")
    (model / "chat_template.jinja").write_text("{{ messages }", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"chat_template\.jinja: is not the file"):
        check(model, key="key.pub")


@pytest.mark.parametrize(
    ("left", "added"),
    [((0,), ()), ((1,), ()), ((), ((8, 16),)), ((), ((16, 24),)), ((1,), ((9, 14),))],
)
def test_shards_with_a_gap_or_an_overlap_are_refused(
    model: Path, left: tuple[int, ...], added: tuple[tuple[int, int], ...]
) -> None:
    content = (model / "chat_template.jinja").read_bytes()
    whole = [(start, start + len(part)) for start, part in parts(content, 8)]
    assert whole == [(0, 8), (8, 14)]
    spans = [span for index, span in enumerate(whole) if index not in left] + list(added)
    resources = {
        f"chat_template.jinja:{start}:{end}": hashlib.sha256(content[start:end]).hexdigest()
        for start, end in spans
    }
    for name in digests(model):
        (model / name).unlink()
    (model / "chat_template.jinja").write_bytes(content)
    text = signed(statement(resources, method="shards", shard_size=8))
    (model / "model.sig").write_text(text, encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"is not the file that was signed|lists .* twice"):
        check(model, key="key.pub")


def test_tiny_shards_of_a_huge_file_are_not_listed_one_by_one(model: Path) -> None:
    """A terabyte in shards of one byte would fill the memory before it is refused."""
    text = shards(model, 1)
    bundle = read_bundle(text.encode(), "model.sig")
    huge = FilePin("config.json", "0" * 64, 1 << 40, "config")
    problems = compare_manifest(
        parse_statement(bundle.envelope.payload, "model.sig"),
        [huge],
        where="model.sig",
        open_file=lambda name: OpenFile(local_location(model), name),
    )
    assert f"found  {1 << 40} bytes in {1 << 40} shards" in problems[-1].message


def test_a_signature_over_a_download_s_notes_is_refused_with_the_reason(model: Path) -> None:
    """model-signing signs them when they are there; here nobody looks at them."""
    notes = model / ".cache" / "huggingface"
    notes.mkdir(parents=True)
    (notes / "x.metadata").write_text("x", encoding="utf-8")
    files = {**digests(model), ".cache/huggingface/x.metadata": "0" * 64}
    (model / "model.sig").write_text(signed(statement(files)), encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"x\.metadata: is signed .* never looked at here"):
        check(model, key="key.pub")
