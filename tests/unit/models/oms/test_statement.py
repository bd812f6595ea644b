"""What a signature may say: everything but the exact form is refused, with the reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.models.oms.bundle import read_bundle
from pytest_compsec.models.oms.names import name_problem
from pytest_compsec.models.oms.statement import parse_statement
from tests.unit.models.oms.signers import check, digests, public_pem, signed, statement
from tests.unit.models.tiny_files import write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "key.pub").write_bytes(public_pem())
    return write_model(tmp_path / "model")


def verify(model: Path, value: object) -> None:
    (model / "model.sig").write_text(signed(value), encoding="utf-8")
    check(model, key="key.pub")


def test_a_statement_over_all_files_verifies(model: Path) -> None:
    verify(model, statement(digests(model)))


@pytest.mark.parametrize(
    "name",
    ["../key.pub", "/etc/passwd", "a/../../b", "C:/model.safetensors", "c:weights", "a\\b",
     "\\\\host\\share", "./config.json", "a//b", "a/", "", "..", "a\nb", "a\u202eb"],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(model: Path, name: str) -> None:
    assert name_problem(name) is not None
    files = {**digests(model), name: "0" * 64}
    with pytest.raises(IntegrityError, match="the name"):
        verify(model, statement(files))
    with pytest.raises(IntegrityError, match="ignore_paths"):
        verify(model, statement(digests(model), ignore_paths=[name]))


@pytest.mark.parametrize(
    ("name", "words"),
    [("a:b.txt", "begins like a drive"), ("/a", "is absolute"), ("", "is empty"),
     ("a\u3000b", r"the name 'a\\u3000b' holds control characters or unusual spaces")],
)  # fmt: skip
def test_it_is_said_what_is_wrong_with_a_name(name: str, words: str) -> None:
    assert re.search(words, name_problem(name) or "")


@pytest.mark.parametrize("name", ["config.json", "a/b/c.txt", "模型.bin", "a b", "xx:y", ".env"])
def test_a_plain_name_is_not(name: str) -> None:
    assert name_problem(name) is None


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def edited(value: dict[str, Any]) -> dict[str, Any]:
        change(value)
        return value

    return edited


def serialization(**settings: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return edit(lambda value: value["predicate"]["serialization"].update(settings))


def twice(value: dict[str, Any]) -> None:
    resources = value["predicate"]["resources"]
    resources.append(dict(resources[0]))


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "links": (serialization(allow_symlinks=True), "allows symlinks"),
    "method": (serialization(method="tensors"), "method 'tensors'; known here: files, shards"),
    "hash": (serialization(hash_type="md5"), "'md5'; known here: sha256, blake2b"),
    "blake3": (serialization(hash_type="blake3"), "'blake3'; known here"),
    "shard size beside files": (serialization(shard_size=5), "'shard_size' beside"),
    "no shard size": (serialization(method="shards"), "whole number 'shard_size'"),
    "shards of nothing": (serialization(method="shards", shard_size=0), "no positive"),
    "names of shards": (serialization(method="shards", shard_size=5), "no 'path:start:end'"),
    "listed twice": (edit(twice), "lists 'chat_template.jinja' twice"),
    "no file": (edit(lambda v: v["predicate"]["resources"].clear()), "covers no file"),
    "two subjects": (edit(lambda v: v["subject"].append(v["subject"][0])), "has 2 subjects"),
    "subject": (edit(lambda v: v["subject"][0]["digest"].update(sha256="0" * 64)),
                "not the digest of the files"),
    "order": (edit(lambda v: v["predicate"]["resources"].reverse()), "not the digest of the files"),
    "other type": (edit(lambda v: v.update(_type="x")), "is no https"),
    "before 1.0": (edit(lambda v: v.update(predicateType="https://model_signing/Digests/v0.1")),
                   "before 1.0"),
    "algorithm": (edit(lambda v: v["predicate"]["resources"][0].update(algorithm="blake2b")),
                  "its settings say 'sha256'"),
    "upper case": (edit(lambda v: v["predicate"]["resources"][0].update(digest="A" * 64)),
                   "in lower-case hex"),
    "short": (edit(lambda v: v["predicate"]["resources"][0].update(digest="ab")), "lower-case hex"),
    "hostile subject": (edit(lambda v: v["subject"][0]["digest"].update(sha256="\x1b[31m\ud800")),
                        r"subject sha256 \\x1b\[31m\\ud800"),
    "nameless subject": (edit(lambda v: v["subject"][0].update(name="")), "subject has no name"),
    "more": (edit(lambda v: v.update(more=1)), "its statement has an unknown part 'more'"),
    "more in predicate": (edit(lambda v: v["predicate"].update(more=1)),
                          "'predicate' in its statement has an unknown part 'more'"),
    "more in settings": (serialization(more=1), "unknown part 'more'"),
    "not a list": (edit(lambda v: v["predicate"].update(resources={})), "no list 'resources'"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_another_statement_is_refused_though_it_is_signed(model: Path, fault: str) -> None:
    change, words = FAULTS[fault]
    with pytest.raises(IntegrityError, match=words):
        verify(model, change(statement(digests(model))))


def test_a_key_that_stands_twice_is_refused(model: Path) -> None:
    text = json.dumps(statement(digests(model)))
    with pytest.raises(IntegrityError, match="a key stands twice"):
        parse_statement(text.replace("{", '{"predicateType": "x",', 1).encode(), "model.sig")


def test_what_nests_without_end_is_refused_and_not_followed() -> None:
    with pytest.raises(IntegrityError, match="is no JSON"):
        read_bundle(b'{"a":' + b"[" * 200_000, "model.sig")


BUNDLES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "media type": (lambda v: v.update(mediaType="application/json"), r"not a Sigstore bundle"),
    "two methods": (
        lambda v: v["verificationMaterial"].update(x509CertificateChain={}), "exactly one"),
    "no method": (lambda v: v.update(verificationMaterial={}), "exactly one of"),
    "payload type": (lambda v: v["dsseEnvelope"].update(payloadType="text/plain"), "'text/plain'"),
    "two signatures": (lambda v: v["dsseEnvelope"].update(
        signatures=2 * v["dsseEnvelope"]["signatures"]), "2 signatures instead of one"),
    "extra part of the envelope": (
        lambda v: v["dsseEnvelope"].update(more=1), "envelope has an unknown part 'more'"),
    "extra part of the signature": (
        lambda v: v["dsseEnvelope"]["signatures"][0].update(more=1), "unknown part 'more'"),
    "extra part": (lambda v: v.update(more=1), "unknown part 'more'"),
    "base64": (lambda v: v["dsseEnvelope"].update(payload="%"), "not a DSSE envelope"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BUNDLES)
def test_another_bundle_is_refused(model: Path, fault: str) -> None:
    change, words = BUNDLES[fault]
    bundle = json.loads(signed(statement(digests(model))))
    change(bundle)
    (model / "model.sig").write_text(json.dumps(bundle), encoding="utf-8")
    with pytest.raises(IntegrityError, match=words):
        check(model, key="key.pub")


def test_another_key_is_refused_with_both_digests(model: Path) -> None:
    (model.parent / "other.pub").write_bytes(public_pem("other"))
    (model / "model.sig").write_text(signed(statement(digests(model))), encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"(?s)another key than other\.pub.*sha256.*sha256"):
        check(model, key="other.pub")


def test_a_hint_is_no_proof(model: Path) -> None:
    """Signed by a stranger who names the trusted key."""
    bundle = json.loads(signed(statement(digests(model)), "stranger"))
    own = json.loads(signed(statement(digests(model))))
    bundle["verificationMaterial"] = own["verificationMaterial"]
    (model / "model.sig").write_text(json.dumps(bundle), encoding="utf-8")
    with pytest.raises(IntegrityError, match="the signature is not that of this key"):
        check(model, key="key.pub")


def test_a_kind_of_key_that_models_are_not_signed_with_is_named(model: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ed25519.Ed25519PrivateKey.generate().public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (model.parent / "key.pub").write_bytes(pem)
    with pytest.raises(CompsecError, match=r"P-256, P-384 or P-521 only"):
        verify(model, statement(digests(model)))
