"""A certificate in a file: unsigned, in a DSSE envelope, or in a bundle of Sigstore; and its
signature verified before anything in it is believed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_compsec.errors import CompsecError
from pytest_compsec.signing import dsse, keyless, keys
from pytest_compsec.signing.statement import (
    CertificateRefused,
    Statement,
    json_object,
    statement_of,
)

#: A certificate lists files and checks; nothing of ours comes near.
MOST_BYTES = 64 * 1024 * 1024
UNSIGNED = (
    "is not signed: anyone could have written it. Sign with --compsec-sign-key=KEY.pem or "
    "--compsec-sign-sigstore"
)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A statement whose signature was verified. ``sha256`` (hex) is of the file, ``signer`` says
    who signed, for people."""

    statement: Statement
    signer: str
    sha256: str


def sign_with_key(statement: str, key: keys.PrivateKey) -> str:
    """The text of a DSSE envelope around a statement's text."""
    envelope = dsse.sign_envelope(statement.encode(), dsse.IN_TOTO, key)
    return json.dumps(envelope.to_json(), indent=2) + "\n"


def verified_with_key(path: Path, key: keys.PublicKey) -> Certificate:
    """The certificate at ``path``. Raises CertificateRefused with the reason: another key, an
    edited payload or type, no signature, another predicate; CompsecError for an unreadable file."""
    content, data = _read(path)
    if "verificationMaterial" in data:
        raise CertificateRefused(
            "is signed with an identity of Sigstore, not with a key; verify it with "
            "--sigstore-identity and --sigstore-issuer"
        )
    try:
        envelope = dsse.envelope_of(data, where="the file")
        dsse.verify_envelope(envelope, key)
    except CompsecError as error:
        raise CertificateRefused(str(error)) from None
    payload = _in_toto(envelope.payload_type, envelope.payload)
    signer = f"key sha256 {keys.key_hint(key)}"
    return Certificate(statement_of(payload), signer, hashlib.sha256(content).hexdigest())


def verified_with_identity(path: Path, identity: str, issuer: str) -> Certificate:
    """As :func:`verified_with_key`, of a bundle that Sigstore says ``identity`` signed, known to
    the OpenID Connect ``issuer``. Raises MissingExtraError without the package ``sigstore``."""
    content, data = _read(path)
    if "verificationMaterial" not in data:
        raise CertificateRefused("is signed with a key; verify it with --key=PUB.pem")
    payload = _in_toto(*keyless.verified_payload(content.decode(), identity, issuer))
    signer = f"{identity}, as {issuer} knows them (Sigstore)"
    return Certificate(statement_of(payload), signer, hashlib.sha256(content).hexdigest())


def _read(path: Path) -> tuple[bytes, Mapping[str, Any]]:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise CompsecError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > MOST_BYTES:
        raise CertificateRefused(f"has more than {MOST_BYTES} bytes, and is no certificate")
    data = json_object(content, "the file")
    if "_type" in data:
        raise CertificateRefused(UNSIGNED)
    return content, data


def _in_toto(payload_type: str, payload: bytes) -> bytes:
    if payload_type != dsse.IN_TOTO:
        raise CertificateRefused(f"what is signed is {payload_type!r}, not {dsse.IN_TOTO!r}")
    return payload
