"""Keys, certificates and hand-made statements for tests of model signatures."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pytest_compsec.config.signatures import SignatureEntry
from pytest_compsec.models.integrity import local_location, pin_source
from pytest_compsec.models.oms.bundle import bundle_text
from pytest_compsec.models.oms.checking import pin_signature
from pytest_compsec.models.oms.pin import SignaturePin
from pytest_compsec.models.oms.statement import PREDICATE_TYPE, STATEMENT_TYPE
from pytest_compsec.signing import dsse, keys

DATA = Path(__file__).parents[3] / "data" / "oms"
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
YEAR = datetime.timedelta(days=365)
CURVES: Mapping[str, Callable[[], ec.EllipticCurve]] = {
    "P-192": ec.SECP192R1, "P-224": ec.SECP224R1, "K-256": ec.SECP256K1,
    "P-384": ec.SECP384R1, "P-521": ec.SECP521R1,
}  # fmt: skip


@functools.cache
def key(name: str = "publisher") -> ec.EllipticCurvePrivateKey:
    """One key per name, the same for the whole run; on P-256, or on the curve in the name."""
    return ec.generate_private_key(CURVES.get(name, ec.SECP256R1)())


def private_pem(name: str = "publisher", password: bytes | None = None) -> bytes:
    locked = BestAvailableEncryption(password) if password else NoEncryption()
    return key(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)


def public_pem(name: str = "publisher") -> bytes:
    return key(name).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def usage(*, signs: bool = False, issues: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(signs, False, False, False, False, issues, False, False, False)


def certificate(
    name: str,
    issuer: str,
    *,
    authority: bool = False,
    key_usage: x509.KeyUsage | None = None,
    extended: bool = True,
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING,
    start: datetime.datetime = START,
    end: datetime.datetime = START + 10 * YEAR,
    path_length: int | None = None,
    signed_by: str | None = None,
    key_name: str | None = None,
    extra: x509.ExtensionType | None = None,
    critical: bool = True,
) -> x509.Certificate:
    """The certificate of :func:`key` ``name`` (or ``key_name``), from ``issuer``; usual for a
    signer, or for an ``authority``."""

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key(key_name or name).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(authority, path_length), critical=True)
    )
    wanted = key_usage if key_usage is not None else usage(signs=not authority, issues=authority)
    builder = builder.add_extension(wanted, critical=True)
    if extended and not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if extra is not None:
        builder = builder.add_extension(extra, critical=critical)
    return builder.sign(key(signed_by or issuer), hashes.SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def der(*certificates: x509.Certificate) -> list[bytes]:
    return [one.public_bytes(Encoding.DER) for one in certificates]


def statement(files: Mapping[str, str], **serialization: Any) -> dict[str, Any]:
    """A statement over ``name -> sha256`` as a JSON object, its subject as it has to be."""
    whole = hashlib.sha256(b"".join(bytes.fromhex(one) for one in files.values())).hexdigest()
    settings = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "model", "digest": {"sha256": whole}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {**settings, **serialization},
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digest}
                for name, digest in files.items()
            ],
        },
    }


def signed(value: object, name: str = "publisher") -> str:
    """A ``model.sig`` by the method ``key`` over any payload."""
    envelope = dsse.sign_envelope(json.dumps(value).encode(), dsse.IN_TOTO, key(name))
    return bundle_text(envelope, key_hint=keys.key_hint(key(name).public_key()))


def digests(folder: Path, leave_out: Callable[[str], bool] = lambda name: False) -> dict[str, str]:
    """``name -> sha256`` of a directory's files, sorted."""
    pin = pin_source(local_location(folder), source="model", holds_weights=False)
    return {
        file.name: file.sha256
        for file in pin.files
        if file.name != "model.sig" and not leave_out(file.name)
    }


def shards(model: Path, size: int) -> str:
    """A signature over a directory by the method ``shards``, of ``size`` bytes each."""
    resources = [
        (f"{name}:{start}:{start + len(part)}", hashlib.sha256(part).hexdigest())
        for name in sorted(digests(model))
        for start, part in parts((model / name).read_bytes(), size)
    ]
    return signed(statement(dict(resources), method="shards", shard_size=size))


def parts(content: bytes, size: int) -> list[tuple[int, bytes]]:
    """Where each part of ``size`` bytes begins, and the part."""
    return [(start, content[start : start + size]) for start in range(0, len(content), size)]


def check(model: Path, **entry: Any) -> SignaturePin:
    """Verify ``model.sig`` in a directory (or beside a file), as ``compsec pin`` does."""
    root = model.parent
    location = local_location(model)
    files = pin_source(location, source=str(model), holds_weights=False)
    given = SignatureEntry.model_validate(entry, context={"root": root})
    return pin_signature(given, root, location, files)
