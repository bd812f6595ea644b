"""Sigstore behind fakes at the boundary: its service is public, and not to be had in tests.

Where the real package is installed, the names that we use are compared with it.
"""

from __future__ import annotations

import base64
import inspect
import json
import sys
import types
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pytest_compsec.errors import CompsecError, MissingExtraError
from pytest_compsec.reports.certificate import statement_for
from pytest_compsec.signing import keyless
from pytest_compsec.signing.certificates import verified_with_identity
from pytest_compsec.signing.dsse import IN_TOTO
from pytest_compsec.signing.statement import CertificateRefused
from tests.unit.reports.certified_run import ARTEFACT, report

ME, ISSUER = "https://github.com/o/r/.github/workflows/ci.yml@refs/heads/main", "https://issuer"


class Error(Exception):
    pass


class IdentityError(Error):
    pass


class Fake:
    """Remembers what it was asked; ``fault`` is raised where signing or verifying happens."""

    def __init__(self) -> None:
        self.credential: str | None = "token"
        self.fault: Exception | None = None
        self.no_root: Exception | None = None
        self.payload_type = IN_TOTO
        self.asked: dict[str, Any] = {}

    def detect(self) -> str | None:
        if isinstance(self.fault, IdentityError):
            raise self.fault
        return self.credential

    def signed(self, contents: bytes) -> str:
        if self.fault is not None:
            raise self.fault
        envelope = {"payload": base64.b64encode(contents).decode(), "payloadType": IN_TOTO}
        return json.dumps({"verificationMaterial": {}, "dsseEnvelope": envelope})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()

    class Statement:
        def __init__(self, contents: bytes) -> None:
            self.contents = contents

    class Signer:
        def __enter__(self) -> Signer:
            return self

        def __exit__(self, *ignored: object) -> None:
            pass

        def sign_dsse(self, statement: Statement) -> Any:
            text = made.signed(statement.contents)
            return types.SimpleNamespace(to_json=lambda: text)

    class SigningContext:
        @classmethod
        def from_trust_config(cls, config: object) -> SigningContext:
            made.asked["config"] = config
            return cls()

        def signer(self, token: object) -> Signer:
            made.asked["token"] = token
            return Signer()

    class Bundle:
        def __init__(self, data: Any) -> None:
            self.data = data

        @classmethod
        def from_json(cls, text: str) -> Bundle:
            if "dsseEnvelope" not in text:
                raise Error("failed to load bundle")
            return cls(json.loads(text))

    class Verifier:
        @classmethod
        def production(cls) -> Verifier:
            if made.no_root is not None:
                raise made.no_root
            return cls()

        def verify_dsse(self, bundle: Bundle, policy: Any) -> tuple[str, bytes]:
            made.asked["policy"] = policy
            if made.fault is not None:
                raise made.fault
            return made.payload_type, base64.b64decode(bundle.data["dsseEnvelope"]["payload"])

    parts: dict[str, dict[str, Any]] = {
        "sigstore": {},
        "sigstore.dsse": {"Statement": Statement},
        "sigstore.errors": {"Error": Error},
        "sigstore.models": {
            "Bundle": Bundle,
            "ClientTrustConfig": types.SimpleNamespace(production=lambda: "production"),
        },
        "sigstore.oidc": {
            "ExpiredIdentity": type("ExpiredIdentity", (Exception,), {}),
            "IdentityError": IdentityError,
            "IdentityToken": lambda raw: f"token {raw}",
            "detect_credential": made.detect,
        },
        "sigstore.sign": {
            "ExpiredCertificate": type("ExpiredCertificate", (Exception,), {}),
            "SigningContext": SigningContext,
        },
        "sigstore.verify": {
            "Verifier": Verifier,
            "policy": types.SimpleNamespace(Identity=lambda **asked: asked),
        },
    }
    for name, members in parts.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return made


def bundle(fake: Fake, path: Path) -> Path:
    path.write_text(keyless.sign_statement(json.dumps(statement_for(report(), ARTEFACT))), "utf-8")
    return path


def test_the_ambient_identity_signs_and_both_identity_and_issuer_are_asked(
    fake: Fake, tmp_path: Path
) -> None:
    path = bundle(fake, tmp_path / "c.json")
    assert fake.asked == {"config": "production", "token": "token token"}
    found = verified_with_identity(path, ME, ISSUER)
    assert fake.asked["policy"] == {"identity": ME, "issuer": ISSUER}
    assert found.statement.result == "PASSED"
    assert found.signer == f"{ME}, as {ISSUER} knows them (Sigstore)"


def test_another_identity_or_type_is_refused(fake: Fake, tmp_path: Path) -> None:
    path = bundle(fake, tmp_path / "c.json")
    fake.payload_type = "text/plain"
    with pytest.raises(CertificateRefused, match="what is signed is 'text/plain'"):
        verified_with_identity(path, ME, ISSUER)
    fake.fault = Error("Certificate's SANs do not match")
    with pytest.raises(CertificateRefused, match="refused by Sigstore: Certificate's SANs"):
        verified_with_identity(path, ME, ISSUER)


def test_no_bundle_and_no_roots(fake: Fake, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"verificationMaterial": 1}', encoding="utf-8")
    with pytest.raises(CertificateRefused, match="is no bundle of Sigstore"):
        verified_with_identity(path, ME, ISSUER)
    fake.no_root = OSError("no network")
    with pytest.raises(CompsecError, match="keys of Sigstore cannot be had: no network") as caught:
        verified_with_identity(bundle(fake, path), ME, ISSUER)
    assert not isinstance(caught.value, CertificateRefused)


def test_outside_of_ci_nobody_vouches(fake: Fake) -> None:
    keyless.require_identity()
    fake.credential = None
    with pytest.raises(CompsecError, match="no CI system vouches for this job"):
        keyless.require_identity()
    fake.fault = IdentityError("insufficient permissions")
    with pytest.raises(CompsecError, match="insufficient permissions"):
        keyless.require_identity()


def test_what_the_service_refuses_is_said(fake: Fake) -> None:
    fake.fault = Error("429\nslow down")
    with pytest.raises(CompsecError, match="not signed by Sigstore: 429 slow down"):
        keyless.sign_statement("{}")


def test_without_the_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sigstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sigstore", None)
    for call in (keyless.require_sigstore, keyless.require_identity):
        with pytest.raises(MissingExtraError, match=r'pip install "pytest-compsec\[sigstore\]"'):
            call()


@pytest.mark.heavy
def test_the_real_package_has_what_the_fakes_have(monkeypatch: pytest.MonkeyPatch) -> None:
    from sigstore import models, oidc, sign, verify
    from sigstore.dsse import Statement
    from sigstore.errors import Error as RealError

    assert issubclass(oidc.IdentityError, RealError)
    assert list(inspect.signature(sign.SigningContext.from_trust_config).parameters) == [
        "trust_config"
    ]
    assert "identity_token" in inspect.signature(sign.SigningContext.signer).parameters
    assert list(inspect.signature(sign.Signer.sign_dsse).parameters) == ["self", "input_"]
    assert list(inspect.signature(Statement).parameters) == ["contents"]
    assert list(inspect.signature(verify.Verifier.verify_dsse).parameters) == [
        "self",
        "bundle",
        "policy",
    ]
    assert set(inspect.signature(verify.policy.Identity).parameters) == {"identity", "issuer"}
    assert callable(models.ClientTrustConfig.production)
    assert callable(models.Bundle.from_json)
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"):
        monkeypatch.delenv(name, raising=False)

    def nobody(*ignored: object) -> None:
        return None

    monkeypatch.setattr(oidc, "detect_credential", nobody)
    with pytest.raises(CompsecError, match="no CI system vouches"):
        keyless.require_identity()
    monkeypatch.setattr(oidc, "detect_credential", lambda: "not a token")
    with pytest.raises(CompsecError, match="malformed"):
        keyless.require_identity()
    with pytest.raises(CertificateRefused, match="is no bundle of Sigstore"):
        keyless.verified_payload('{"verificationMaterial": {}}', ME, ISSUER)

    def offline(*ignored: object, **others: object) -> NoReturn:
        raise RealError("offline")

    monkeypatch.setattr(models.ClientTrustConfig, "production", offline)
    monkeypatch.setattr(oidc, "detect_credential", lambda: "t")
    monkeypatch.setattr(oidc, "IdentityToken", lambda raw: raw)
    with pytest.raises(CompsecError, match="not signed by Sigstore: offline"):
        keyless.sign_statement("{}")
