"""What a file must be before anything in it is believed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")

from pytest_compsec.errors import CompsecError
from pytest_compsec.reports.certificate import statement_for
from pytest_compsec.signing import certificates, dsse
from pytest_compsec.signing.certificates import sign_with_key, verified_with_key
from pytest_compsec.signing.statement import CertificateRefused, statement_of
from tests.unit.reports.certified_run import ARTEFACT, report
from tests.unit.signing.test_keys import new_key

KEY = new_key("ed25519")
PUBLIC = KEY.public_key()
STATEMENT = statement_for(report(), ARTEFACT)


def write(path: Path, statement: Any = STATEMENT, key: Any = KEY) -> Path:
    path.write_text(sign_with_key(json.dumps(statement), key), encoding="utf-8")
    return path


def test_a_signed_certificate_is_read(tmp_path: Path) -> None:
    found = verified_with_key(write(tmp_path / "c.json"), PUBLIC)
    assert found.statement.result == "PASSED"
    assert found.statement.suite == "suite/compsec.yaml"
    assert [one.name for one in found.statement.subjects] == ["model.safetensors"]
    assert found.statement.artefact_files["config.json"] == "b" * 64
    assert found.statement.told["pair"] == "tiny-files"


def test_another_key_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", key=new_key("ed25519"))
    with pytest.raises(CertificateRefused, match="the signature is not that of this key"):
        verified_with_key(path, PUBLIC)


def edited(path: Path, **changes: Any) -> Path:
    data = json.loads(write(path).read_text(encoding="utf-8"))
    path.write_text(json.dumps({**data, **changes}), encoding="utf-8")
    return path


def test_an_edited_payload_or_type_is_refused(tmp_path: Path) -> None:
    import base64

    other = json.loads(json.dumps(STATEMENT).replace("a" * 64, "9" * 64))
    payload = base64.b64encode(json.dumps(other).encode()).decode()
    with pytest.raises(CertificateRefused, match="not that of this key"):
        verified_with_key(edited(tmp_path / "c.json", payload=payload), PUBLIC)
    with pytest.raises(CertificateRefused, match="not that of this key"):
        verified_with_key(edited(tmp_path / "c.json", payloadType="text/plain"), PUBLIC)
    with pytest.raises(CertificateRefused, match="not a DSSE envelope"):
        verified_with_key(edited(tmp_path / "c.json", payload="not base64!"), PUBLIC)
    with pytest.raises(CertificateRefused, match="without a signature"):
        verified_with_key(edited(tmp_path / "c.json", signatures=[]), PUBLIC)


def test_a_signature_over_another_type_is_none_over_a_statement(tmp_path: Path) -> None:
    envelope = dsse.sign_envelope(json.dumps(STATEMENT).encode(), "application/json", KEY)
    (tmp_path / "c.json").write_text(json.dumps(envelope.to_json()), encoding="utf-8")
    with pytest.raises(CertificateRefused, match="what is signed is 'application/json'"):
        verified_with_key(tmp_path / "c.json", PUBLIC)


def test_an_unsigned_statement_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(STATEMENT), encoding="utf-8")
    with pytest.raises(CertificateRefused, match="is not signed: anyone could have written it"):
        verified_with_key(tmp_path / "c.json", PUBLIC)
    # Nor does a statement become signed by keys of an envelope beside its own.
    data = json.loads(write(tmp_path / "d.json").read_text(encoding="utf-8"))
    (tmp_path / "d.json").write_text(json.dumps({**STATEMENT, **data}), encoding="utf-8")
    with pytest.raises(CertificateRefused, match="is not signed"):
        verified_with_key(tmp_path / "d.json", PUBLIC)


def test_a_bundle_of_sigstore_needs_an_identity_and_a_key_none(tmp_path: Path) -> None:
    path = edited(tmp_path / "c.json", verificationMaterial={})
    with pytest.raises(CertificateRefused, match="--sigstore-identity"):
        verified_with_key(path, PUBLIC)
    with pytest.raises(CertificateRefused, match="is signed with a key; verify it with --key"):
        certificates.verified_with_identity(write(tmp_path / "d.json"), "me", "issuer")


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"payload": 1, "payload": 2}', "{" * 9999])
def test_what_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    with pytest.raises(CertificateRefused, match="the file is no JSON"):
        verified_with_key(tmp_path / "c.json", PUBLIC)


def test_a_file_that_is_absent_or_huge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompsecError, match="cannot be read") as caught:
        verified_with_key(tmp_path / "absent.json", PUBLIC)
    assert not isinstance(caught.value, CertificateRefused)
    monkeypatch.setattr(certificates, "MOST_BYTES", 100)
    with pytest.raises(CertificateRefused, match="more than 100 bytes"):
        verified_with_key(write(tmp_path / "c.json"), PUBLIC)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    statement = copy.deepcopy(STATEMENT)
    change(statement)
    return json.dumps(statement).encode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: one.update(_type="https://in-toto.io/Statement/v0.1"), "no in-toto Statement"),
        (lambda one: one.update(predicateType="https://slsa.dev/provenance/v1"), "is unknown"),
        (lambda one: one.pop("predicateType"), "is unknown"),
        (lambda one: one["predicate"].update(result="OK"), "none of PASSED, WARNED, FAILED"),
        (lambda one: one["predicate"].pop("result"), "none of PASSED, WARNED, FAILED"),
        (lambda one: one.update(predicate=[]), "predicate is no JSON object"),
        (lambda one: one.update(subject=[]), "subject is no list, or an empty one"),
        (lambda one: one["subject"][0].pop("digest"), "without a name or a sha256"),
        (lambda one: one["subject"][0].update(digest={"sha1": "a"}), "without a name or a sha256"),
        (lambda one: one["subject"][0].pop("name"), "without a name or a sha256"),
        (lambda one: one["subject"][0]["digest"].update(sha256="A" * 64), "64 hexadecimal digits"),
        (lambda one: one["subject"][0]["digest"].update(sha256="a"), "64 hexadecimal digits"),
        (lambda one: one["subject"].append(one["subject"][0]), "names a subject twice"),
        (lambda one: one["predicate"].update(configuration=[]), "configuration is no list"),
        (lambda one: one["predicate"].update(configuration=[1]), "an entry of configuration"),
        (lambda one: one["predicate"].update(passedTests="all"), "passedTests is no list"),
        (lambda one: one["predicate"].update(failedTests=[1]), "failedTests is no list"),
        (
            lambda one: one["predicate"]["configuration"][0].update(annotations=1),
            "annotations in configuration is no JSON object",
        ),
    ],
)
def test_a_statement_that_is_no_test_result_about_digests_is_refused(
    change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    with pytest.raises(CertificateRefused, match=reason):
        statement_of(changed(change))


def test_fields_of_a_later_version_are_ignored() -> None:
    found = statement_of(changed(lambda one: one["predicate"].update(later=1)))
    assert found == statement_of(json.dumps(STATEMENT).encode())


def test_a_key_that_occurs_twice_is_refused_inside_the_payload_too() -> None:
    text = json.dumps(STATEMENT)
    twice = text.replace('"result": "PASSED"', '"result": "FAILED", "result": "PASSED"', 1)
    assert twice != text
    with pytest.raises(CertificateRefused, match="a key occurs twice"):
        statement_of(twice.encode())


@pytest.mark.parametrize(
    "changes", [{"payloadType": "\ud800"}, {"signatures": [{"sig": "AAAA", "keyid": "\ud800"}]}]
)
def test_half_a_character_is_refused_and_breaks_nothing(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(CertificateRefused, match="not a DSSE envelope"):
        verified_with_key(edited(tmp_path / "c.json", **changes), PUBLIC)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_only_plain_utf_8_is_json(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "c.json")
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    with pytest.raises(CertificateRefused, match="the file is no JSON"):
        verified_with_key(path, PUBLIC)
    path.write_bytes(json.dumps({"verificationMaterial": {}}).encode(encoding))
    with pytest.raises(CertificateRefused, match="the file is no JSON"):
        certificates.verified_with_identity(path, "me", "https://issuer")
