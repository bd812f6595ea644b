"""``compsec sign``: what it signs, what it refuses, and what it leaves as it was."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest
from cryptography import x509

from pytest_compsec.cli import main
from pytest_compsec.errors import IntegrityError
from pytest_compsec.models.oms.bundle import read_bundle
from pytest_compsec.models.oms.statement import parse_statement
from tests.unit.models.oms.signers import (
    YEAR,
    certificate,
    check,
    der,
    pem,
    private_pem,
    public_pem,
)
from tests.unit.models.tiny_files import write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "key.pem").write_bytes(private_pem())
    (tmp_path / "key.pub").write_bytes(public_pem())
    (tmp_path / "leaf.pem").write_bytes(pem(certificate("publisher", "root")))
    (tmp_path / "root.pem").write_bytes(pem(certificate("root", "root", authority=True)))
    return write_model(tmp_path / "model")


def sign(model: Path, *more: str, key: str = "key.pem") -> int:
    return main(["sign", str(model), "--key", str(model.parent / key), *more])


def covered(path: Path) -> list[str]:
    bundle = read_bundle(path.read_bytes(), "model.sig")
    return [one.name for one in parse_statement(bundle.envelope.payload, "model.sig").resources]


def refused(capsys: pytest.CaptureFixture[str], code: int, model: Path, *more: str) -> str:
    before = (model / "model.sig").read_bytes() if (model / "model.sig").exists() else None
    assert sign(model, *more) == code
    after = (model / "model.sig").read_bytes() if (model / "model.sig").exists() else None
    assert after == before
    return capsys.readouterr().err


def test_every_file_is_signed_and_verifies(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "sub").mkdir()
    (model / "sub" / "vocab.txt").write_text("a", encoding="utf-8")
    assert sign(model) == 0
    assert "Signed 5 files" in capsys.readouterr().out
    assert covered(model / "model.sig") == [
        "chat_template.jinja", "config.json", "model.safetensors", "sub/vocab.txt",
        "tokenizer.json",
    ]  # fmt: skip
    check(model, key="key.pub")
    assert sign(model) == 0  # again: its own signature is replaced and never signed
    assert "model.sig" not in covered(model / "model.sig")
    check(model, key="key.pub")


def test_a_signature_elsewhere(model: Path) -> None:
    assert sign(model, "--output", str(model.parent / "release.sig")) == 0
    assert not (model / "model.sig").exists()
    check(model, key="key.pub", file="release.sig")


def test_only_git_s_own_files_are_left_out(model: Path) -> None:
    for name in (".gitattributes", ".env", "README.md"):
        (model / name).write_text("x", encoding="utf-8")
    assert sign(model) == 0
    assert {".env", "README.md"} <= set(covered(model / "model.sig"))
    assert ".gitattributes" not in covered(model / "model.sig")
    check(model, key="key.pub")


def test_the_notes_of_a_download_are_left_out_and_still_refused_elsewhere(model: Path) -> None:
    notes = model / ".cache" / "huggingface"
    notes.mkdir(parents=True)
    (notes / "x.metadata").write_text("x", encoding="utf-8")
    assert sign(model) == 0
    check(model, key="key.pub")


def test_with_a_certificate(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = model.parent
    leaf, chain = str(root / "leaf.pem"), str(root / "root.pem")
    assert sign(model, "--certificate", leaf, "--chain", chain) == 0
    check(model, certificates=["root.pem"])
    (root / "other.pem").write_bytes(pem(certificate("other", "root")))
    text = refused(capsys, 2, model, "--certificate", str(root / "other.pem"), "--chain", chain)
    assert "is the certificate of another key" in text
    assert "give --certificate too" in refused(capsys, 2, model, "--chain", chain)
    stranger = pem(certificate("stranger", "stranger", authority=True))
    (root / "stranger.pem").write_bytes(stranger)
    text = refused(capsys, 1, model, "--certificate", leaf, "--chain", str(root / "stranger.pem"))
    assert "is not issued" in text


def test_a_password_comes_from_the_environment_only(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (model.parent / "key.pem").write_bytes(private_pem(password=b"hunter2"))
    monkeypatch.delenv("COMPSEC_SIGN_PASSWORD", raising=False)
    assert "COMPSEC_SIGN_PASSWORD" in refused(capsys, 2, model)
    monkeypatch.setenv("COMPSEC_SIGN_PASSWORD", "wrong")
    text = refused(capsys, 2, model)
    assert "another password" in text
    assert "wrong" not in text
    monkeypatch.setenv("COMPSEC_SIGN_PASSWORD", "hunter2")
    assert sign(model) == 0
    check(model, key="key.pub")


def test_links_hidden_directories_code_and_pickles_are_not_signed(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "link.json").symlink_to(model / "config.json")
    assert "link.json: is a link" in refused(capsys, 1, model)
    (model / "link.json").unlink()
    for name, words in ((".git/x.txt", "hidden directory"), ("x.py", "is code"),
                        ("pytorch_model.bin", "can run code")):  # fmt: skip
        path = model / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x", encoding="utf-8")
        assert words in refused(capsys, 1, model)
        path.unlink()
        if path.parent != model:
            path.parent.rmdir()
    assert sign(model) == 0


def test_a_link_to_a_directory_an_empty_one_and_a_file_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(model)
    assert "is a link. Name what it leads to" in refused(capsys, 1, tmp_path / "link")
    (tmp_path / "empty").mkdir()
    assert "nothing to sign" in refused(capsys, 1, tmp_path / "empty")
    (tmp_path / "one.safetensors").write_bytes(b"x")
    for name in ("one.safetensors", "missing", "missing.gguf"):
        assert "is no directory and no .gguf file" in refused(capsys, 2, tmp_path / name)
    assert sign(tmp_path / ("x" * 300)) == 2
    assert "is no directory and no .gguf file" in capsys.readouterr().err


def test_nothing_but_a_signature_is_ever_replaced(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = model / "config.json"
    before = config.read_bytes()
    assert "is no signature" in refused(capsys, 2, model, "--output", str(config))
    assert config.read_bytes() == before
    (model.parent / "link.sig").symlink_to(config)
    text = refused(capsys, 1, model, "--output", str(model.parent / "link.sig"))
    assert "through which nothing is written" in text
    missing = str(model.parent / "no" / "x.sig")
    assert "does not exist" in refused(capsys, 2, model, "--output", missing)


def test_a_key_that_models_are_not_signed_with_is_refused(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ed25519.Ed25519PrivateKey.generate()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (model.parent / "key.pem").write_bytes(content)
    assert "P-256, P-384 or P-521 only" in refused(capsys, 2, model)


def test_a_model_that_is_one_file_is_signed_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "one.gguf"
    file.write_bytes(b"GGUF" + bytes(60))
    assert sign(file) == 0
    assert "Signed 1 file:" in capsys.readouterr().out
    assert covered(tmp_path / "one.gguf.sig") == ["."]
    check(file, key="key.pub")
    file.write_bytes(b"GGUF" + bytes(61))
    with pytest.raises(IntegrityError, match=r"one\.gguf: is not the file that was signed"):
        check(file, key="key.pub")
    assert sign(file, "--output", str(tmp_path / "other.sig")) == 0
    check(file, key="key.pub", file="other.sig")
    file.write_bytes(b"")
    assert "is empty" in refused(capsys, 1, file)
    (tmp_path / "link.gguf").symlink_to(file)
    assert "is a link" in refused(capsys, 1, tmp_path / "link.gguf")


def test_an_empty_name_is_not_the_current_directory(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`compsec sign "$DIR"` where DIR was never set."""
    monkeypatch.chdir(model)
    assert main(["sign", "", "--key", str(model.parent / "key.pem")]) == 2
    assert "MODEL is empty" in capsys.readouterr().err
    assert not (model / "model.sig").exists()


def test_a_private_key_is_not_given_away_with_the_model(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "key.pem").write_bytes(private_pem())
    assert main(["sign", str(model), "--key", str(model / "key.pem")]) == 2
    assert "the private key lies in the directory" in capsys.readouterr().err
    assert not (model / "model.sig").exists()


@pytest.mark.parametrize("name", [".git", ".github"])
def test_a_file_that_other_tools_pass_over_is_not_signed(
    model: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """``.git`` is a file in a submodule."""
    (model / name).write_text("gitdir: ../.git/modules/model", encoding="utf-8")
    assert f"{name}: is git's own" in refused(capsys, 1, model)


@pytest.mark.parametrize("begin", [-2, 1])
def test_a_certificate_that_is_not_valid_now_signs_nothing(
    model: Path, begin: int, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    leaf = certificate("publisher", "root", start=now + begin * YEAR, end=now + (begin + 1) * YEAR)
    (model.parent / "leaf.pem").write_bytes(pem(leaf))
    more = ("--certificate", str(model.parent / "leaf.pem"), "--chain")
    text = refused(capsys, 2, model, *more, str(model.parent / "root.pem"))
    assert "leaf.pem: is valid from" in text
    assert "and not now" in text


def test_certificates_that_cannot_be_used_are_named(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = model.parent
    p256, none = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030177")
    (content,) = der(certificate("publisher", "root"))
    odd = x509.load_der_x509_certificate(content.replace(p256, none, 1))
    (root / "odd.pem").write_bytes(pem(odd))
    text = refused(capsys, 2, model, "--certificate", str(root / "odd.pem"))
    assert "odd.pem: is the certificate of another key" in text
    leaf = ("--certificate", str(root / "leaf.pem"), "--chain", str(root / "odd.pem"))
    text = refused(capsys, 1, model, *leaf)
    assert f"compsec: {root / 'leaf.pem'}, {root / 'odd.pem'}: the signer's certificate" in text


def test_a_pipe_is_no_signature_to_replace(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(model.parent / "out.sig")
    text = refused(capsys, 2, model, "--output", str(model.parent / "out.sig"))
    assert "is no signature, so it is not replaced" in text
    text = refused(capsys, 2, model, "--output", str(model.parent / ("x" * 300)))
    assert "cannot be written (File name too long)" in text


def test_what_to_do_next_is_said(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The signature is a file that nobody pinned, and one that takes another's place is, too."""
    first = sign(model)
    assert first == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "run `compsec pin`. Until then a run refuses model.sig" in text
    assert "takes the place" not in text
    assert sign(model) == 0
    assert "It takes the place of another signature" in capsys.readouterr().out
