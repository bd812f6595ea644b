"""Signatures and schemas that were not written here: the vectors of the specification, and what
the tool ``model-signing`` 1.1.1 wrote (tests/data/oms/README.md)."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography import x509
from referencing import Registry, Resource

from pytest_compsec.errors import IntegrityError, MissingExtraError
from pytest_compsec.models.oms.bundle import read_bundle
from pytest_compsec.models.oms.signing import sign_model
from pytest_compsec.models.oms.statement import parse_statement, root_digest
from pytest_compsec.signing import keys
from tests.unit.models.oms.signers import DATA, certificate, check, pem, private_pem

#: The specification's own files, beside the repository.
SPECIFICATION = Path(__file__).parents[4].parent / "shared" / "reference" / "oms"
VECTORS = SPECIFICATION / "test-vectors" / "v1.0"
REFUSED = (
    "invalid/empty",
    "invalid/missing-envelope",
    "invalid/missing-tlog-entries",
    "invalid/missing-verification-material",
    "invalid-payload/wrong-predicate",
)
RECORDED = DATA / "model-signing-1.1.1"


def vector(name: str) -> bytes:
    return vector_path(f"valid/{name}").read_bytes()


def vector_path(name: str) -> Path:
    """A vector of the specification; skips where its files are not beside the repository."""
    path = VECTORS / f"{name}.bundle.json"
    if not path.is_file():
        pytest.skip(f"no vectors of OpenSSF Model Signing at {VECTORS}")
    return path


def chain() -> list[x509.Certificate]:
    """The signer's certificate and the intermediate of the certificate vector."""
    bundle = read_bundle(vector("certificate"), "vector")
    return [x509.load_der_x509_certificate(one) for one in bundle.certificates]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The files that the vectors are about."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "signme-1").write_text("signme-1\n", encoding="utf-8")
    (folder / "signme-2").write_text("signme-2", encoding="utf-8")
    # The vectors' key is that of the signer's certificate: its hint says so.
    (tmp_path / "key.pub").write_bytes(keys.public_pem(chain()[0].public_key()))  # type: ignore[arg-type]
    (tmp_path / "intermediate.pem").write_bytes(pem(chain()[1]))
    (tmp_path / "stranger.pem").write_bytes(pem(certificate("root", "root", authority=True)))
    return folder


SIGNERS: dict[str, dict[str, Any]] = {
    "key": {"key": "key.pub"},
    "certificate": {"certificates": ["intermediate.pem"]},
}


@pytest.mark.parametrize("name", ["key", "certificate", "sigstore"])
def test_the_subject_is_the_digest_of_the_resources(name: str) -> None:
    bundle = read_bundle(vector(name), name)
    found = parse_statement(bundle.envelope.payload, name)
    assert root_digest(found.resources) == found.digest
    assert [one.name for one in found.resources] == ["signme-1", "signme-2"]


@pytest.mark.parametrize("name", SIGNERS)
def test_a_valid_vector_verifies_with_its_files(model: Path, name: str) -> None:
    (model / "model.sig").write_bytes(vector(name))
    assert check(model, **SIGNERS[name]).size == len(vector(name))


@pytest.mark.parametrize("name", SIGNERS)
def test_another_byte_in_a_file_is_refused(model: Path, name: str) -> None:
    (model / "model.sig").write_bytes(vector(name))
    (model / "signme-2").write_text("signme-3", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"(?s)signme-2: is not the file.*32dcb1f8.*found"):
        check(model, **SIGNERS[name])


@pytest.mark.parametrize("name", SIGNERS)
def test_an_edited_payload_is_refused(model: Path, name: str) -> None:
    bundle = json.loads(vector(name))
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(b'"model"', b'"other"'))
    bundle["dsseEnvelope"]["payload"] = bundle["dsseEnvelope"]["payload"].decode()
    (model / "model.sig").write_text(json.dumps(bundle), encoding="utf-8")
    with pytest.raises(IntegrityError, match="the signature is not that of this key"):
        check(model, **SIGNERS[name])


def test_a_stranger_s_authority_is_refused(model: Path) -> None:
    (model / "model.sig").write_bytes(vector("certificate"))
    with pytest.raises(IntegrityError, match=r"is not issued.* by any of the 1 that are trusted"):
        check(model, certificates=["stranger.pem"])


def test_a_vector_of_another_method_is_refused(model: Path) -> None:
    (model / "model.sig").write_bytes(vector("certificate"))
    with pytest.raises(IntegrityError, match=r"by the method 'certificates'.* asks for 'key'"):
        check(model, key="key.pub")


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_vector_is_refused_with_the_reason(model: Path, name: str) -> None:
    path = vector_path(name)
    reasons = {
        "empty": "is no JSON",
        "missing-envelope": "no 'dsseEnvelope'",
        "missing-tlog-entries": "no entry of a transparency log",
        "missing-verification-material": "no 'verificationMaterial'",
        "wrong-predicate": "the signature is not that of this key",
    }
    shutil.copyfile(path, model / "model.sig")
    entry = {"sigstore": {"identity": "a@example.org", "issuer": "https://example.org"}}
    with pytest.raises(IntegrityError, match=reasons[path.name.partition(".")[0]]):
        check(model, **(entry if "tlog" in path.name else {"key": "key.pub"}))


def test_another_predicate_is_refused_whoever_signed_it() -> None:
    path = vector_path("invalid-payload/wrong-predicate")
    payload = base64.b64decode(json.loads(path.read_text("utf-8"))["dsseEnvelope"]["payload"])
    with pytest.raises(IntegrityError, match=r"predicate is 'https://example\.com/wrong-predic"):
        parse_statement(payload, "model.sig")


def test_these_are_all_invalid_vectors_of_the_specification() -> None:
    vector_path(REFUSED[0])
    there = VECTORS.glob("invalid*/*.json")
    assert {f"{path.parent.name}/{path.name.partition('.')[0]}" for path in there} == set(REFUSED)


@pytest.mark.parametrize("name", ["key", "shards", "files-blake2b", "certificate"])
def test_what_model_signing_wrote_verifies_here(tmp_path: Path, name: str) -> None:
    shutil.copytree(RECORDED / "model", tmp_path / "model")
    shutil.copyfile(RECORDED / f"{name}.sig", tmp_path / "model.sig")
    for trusted in ("p521.pub", "root.crt"):
        shutil.copyfile(RECORDED / trusted, tmp_path / trusted)
    entry: dict[str, Any] = {"key": "p521.pub"}
    if name == "certificate":
        entry = {"certificates": ["root.crt"]}
    check(tmp_path / "model", **entry, file="model.sig")
    (tmp_path / "model" / "weights.txt").write_text("weightz\n", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"(?s)weights\.txt: is not the file.*signed .*found"):
        check(tmp_path / "model", **entry, file="model.sig")


def test_an_empty_file_is_unsigned_where_only_shards_are(tmp_path: Path) -> None:
    shutil.copytree(RECORDED / "model", tmp_path / "model")
    shutil.copyfile(RECORDED / "shards.sig", tmp_path / "model.sig")
    shutil.copyfile(RECORDED / "p521.pub", tmp_path / "p521.pub")
    (tmp_path / "model" / "adapter_config.json").touch()  # model-signing does not see it
    with pytest.raises(IntegrityError, match=r"adapter_config\.json: is not covered"):
        check(tmp_path / "model", key="p521.pub", file="model.sig")


def validators() -> dict[str, jsonschema.Draft202012Validator]:
    vector_path(REFUSED[0])  # the schemas stand beside the vectors
    schemas = {
        path.name.partition(".")[0]: json.loads(path.read_text("utf-8"))
        for path in (SPECIFICATION / "schemas" / "v1.0").glob("*.json")
    }
    registry: Registry[Any] = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema)) for schema in schemas.values()
    )
    return {
        name: jsonschema.Draft202012Validator(schema, registry=registry)
        for name, schema in schemas.items()
    }


@pytest.mark.parametrize("with_certificate", [False, True])
def test_what_is_written_here_fits_the_schemas(
    model: Path, tmp_path: Path, with_certificate: bool
) -> None:
    (tmp_path / "key.pem").write_bytes(private_pem())
    (tmp_path / "leaf.pem").write_bytes(pem(certificate("publisher", "root")))
    sign_model(
        model,
        tmp_path / "key.pem",
        certificate=tmp_path / "leaf.pem" if with_certificate else None,
        chain=[tmp_path / "stranger.pem"] if with_certificate else [],
    )
    bundle = json.loads((model / "model.sig").read_text("utf-8"))
    schemas = validators()
    assert schemas.keys() == {"bundle", "envelope", "statement", "predicate"}
    schemas["bundle"].validate(bundle)
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    schemas["statement"].validate(payload)
    del payload["predicate"]["serialization"]["allow_symlinks"]
    assert not schemas["statement"].is_valid(payload)  # the schema does look at it


SIGSTORE = {"identity": "stefanb@us.ibm.com", "issuer": "https://sigstore.verify.ibm.com/oauth2"}


@pytest.fixture
def keyless(model: Path) -> Path:
    (model / "signme-1").write_text("signme-1", encoding="utf-8")
    (model / "model.sig").write_bytes(vector("sigstore"))
    return model


def test_without_the_package_a_sigstore_signature_is_no_evidence(
    keyless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sigstore", "sigstore.errors", "sigstore.models", "sigstore.verify"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"(?s)model\.sig.*pytest-compsec\[sigstore\]"):
        check(keyless, sigstore=SIGSTORE)


@pytest.mark.heavy
def test_a_sigstore_vector_verifies_for_its_identity_only(keyless: Path) -> None:
    pytest.importorskip("sigstore")
    assert check(keyless, sigstore=SIGSTORE).identity == SIGSTORE["identity"]
    for other in ({"identity": "a@us.ibm.com"}, {"issuer": "https://example.org"}):
        with pytest.raises(IntegrityError, match="is not signed by"):
            check(keyless, sigstore={**SIGSTORE, **other})


@pytest.mark.heavy
def test_where_sigstore_cannot_keep_its_roots_of_trust_that_is_said(
    keyless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sigstore")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(IntegrityError, match=r"cannot be verified.*file.*Set XDG_CACHE_HOME"):
        check(keyless, sigstore=SIGSTORE)
