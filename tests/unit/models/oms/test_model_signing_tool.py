"""With the tool of OpenSSF itself: it verifies what is signed here, and what it signs verifies
here. ``make test-all`` installs it apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.errors import IntegrityError
from pytest_compsec.models.oms.signing import sign_model
from tests.unit.models.oms.signers import certificate, check, pem, private_pem, public_pem
from tests.unit.models.tiny_files import write_model

pytestmark = pytest.mark.heavy
NAMES = ("\u00e9.json", "e\u0301.json", "模型.txt", "a b.txt", "[x]*.txt", "a/b/c/d.json",
         "a-b/x.txt", "a.txt", "Z.txt", "sub/model.sig", "sub/.gitattributes", "sub/.git", ".env",
         ".cache/huggingface/x.metadata")  # fmt: skip
METHODS = ("key", "certificate")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    pytest.importorskip("model_signing")
    (tmp_path / "key.pem").write_bytes(private_pem())
    (tmp_path / "key.pub").write_bytes(public_pem())
    (tmp_path / "leaf.pem").write_bytes(pem(certificate("publisher", "middle")))
    (tmp_path / "middle.pem").write_bytes(pem(certificate("middle", "root", authority=True)))
    (tmp_path / "root.pem").write_bytes(pem(certificate("root", "root", authority=True)))
    folder = write_model(tmp_path / "model")
    (folder / "sub.d").mkdir()
    (folder / "sub").mkdir()
    (folder / "sub" / "vocab.txt").write_text("a", encoding="utf-8")
    (folder / "sub.d" / "merges.txt").write_text("b", encoding="utf-8")
    (folder / ".gitattributes").write_text("*.safetensors -text", encoding="utf-8")
    return folder


def tool(model: Path, *words: str) -> bool:
    """Run it beside the model."""
    command = [sys.executable, "-m", "model_signing", *words]
    done = subprocess.run(
        [*command, "--signature", "model/model.sig", "model"],
        cwd=model.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0


def tool_verifies(model: Path, method: str) -> bool:
    trusted = {
        "key": ("--public_key", "key.pub"),
        "certificate": ("--certificate_chain", "root.pem"),
    }
    # Whether it looks at git's files or not.
    return all(
        tool(model, "verify", method, f"--{word}ignore-git-paths", *trusted[method])
        for word in ("", "no-")
    )


@pytest.mark.parametrize("method", METHODS)
def test_it_verifies_what_is_signed_here(model: Path, method: str) -> None:
    root = model.parent
    if method == "key":
        sign_model(model, root / "key.pem")
    else:
        chain = [root / "middle.pem", root / "root.pem"]
        sign_model(model, root / "key.pem", certificate=root / "leaf.pem", chain=chain)
    assert tool_verifies(model, method)
    (model / "config.json").write_text("{}", encoding="utf-8")
    assert not tool_verifies(model, method)


@pytest.mark.parametrize("method", METHODS)
def test_what_it_signs_verifies_here(model: Path, method: str) -> None:
    keys = {
        "key": ("--private_key", "key.pem"),
        "certificate": (
            "--private_key", "key.pem", "--signing_certificate", "leaf.pem",
            "--certificate_chain", "middle.pem",
        ),
    }  # fmt: skip
    entry: dict[str, Any] = {"key": "key.pub"}
    if method == "certificate":
        entry = {"certificates": ["root.pem"]}
    assert tool(model, "sign", method, *keys[method])
    check(model, **entry)
    (model / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"config\.json: is not the file that was signed"):
        check(model, **entry)


@pytest.mark.parametrize("empty", [False, True])
def test_it_verifies_names_and_empty_files_that_are_signed_here(model: Path, empty: bool) -> None:
    for name in NAMES:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("" if empty else name, encoding="utf-8")
    sign_model(model, model.parent / "key.pem")
    check(model, key="key.pub")
    assert tool_verifies(model, "key")
    (model / "e\u0301.json").rename(model / "e.json")
    assert not tool_verifies(model, "key")


def test_names_and_empty_files_that_it_signs_verify_here(model: Path) -> None:
    for name in NAMES[:-1]:  # not the notes of a download, which nobody looks at here
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(name if name.isascii() else "", encoding="utf-8")
    assert tool(model, "sign", "key", "--private_key", "key.pem")
    check(model, key="key.pub")
    (model / "e\u0301.json").rename(model / "e.json")
    with pytest.raises(IntegrityError, match=r"e\.json: is not covered"):
        check(model, key="key.pub")


@pytest.mark.parametrize("algorithm", ["sha256", "blake2"])
@pytest.mark.parametrize("size", [1, 13, 14, 15, 28])
def test_shards_that_it_signs_verify_here(model: Path, algorithm: str, size: int) -> None:
    """The template has 14 bytes. The tool itself cannot verify its own shards (1.1.1)."""
    hashing = pytest.importorskip("model_signing.hashing")
    signing = pytest.importorskip("model_signing.signing")
    how = hashing.Config().use_shard_serialization(hashing_algorithm=algorithm, shard_size=size)
    how.set_ignored_paths(paths=["model.sig"])
    signer = signing.Config().use_elliptic_key_signer(private_key=model.parent / "key.pem")
    signer.set_hashing_config(how).sign(model, model / "model.sig")
    check(model, key="key.pub")
    (model / "empty.txt").touch()  # shards do not see it
    with pytest.raises(IntegrityError, match=r"empty\.txt: is not covered"):
        check(model, key="key.pub")


def test_what_it_leaves_out_or_follows_is_refused_here(model: Path) -> None:
    (model / "evil.safetensors").write_bytes(b"x")
    left_out = ("--ignore-paths", "model/evil.safetensors")
    assert tool(model, "sign", "key", "--private_key", "key.pem", *left_out)
    with pytest.raises(IntegrityError, match=r"evil\.safetensors: is left out .* on purpose"):
        check(model, key="key.pub")
    (model / "evil.safetensors").unlink()
    assert tool(model, "sign", "key", "--private_key", "key.pem", "--allow_symlinks")
    with pytest.raises(IntegrityError, match="allows symlinks"):
        check(model, key="key.pub")


def test_one_file_alone_verifies_both_ways(model: Path) -> None:
    root = model.parent
    (root / "one.gguf").write_bytes(b"GGUF" + bytes(60))

    def run(*words: str) -> int:
        command = [sys.executable, "-m", "model_signing", *words, "--signature", "one.gguf.sig"]
        done = subprocess.run([*command, "one.gguf"], cwd=root, capture_output=True, check=False)
        return done.returncode

    sign_model(root / "one.gguf", root / "key.pem")
    assert run("verify", "key", "--public_key", "key.pub") == 0
    (root / "one.gguf.sig").unlink()
    assert run("sign", "key", "--private_key", "key.pem") == 0
    check(root / "one.gguf", key="key.pub")
    (root / "one.gguf").write_bytes(b"GGUF" + bytes(61))
    assert run("verify", "key", "--public_key", "key.pub") != 0
