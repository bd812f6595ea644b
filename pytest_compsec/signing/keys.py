"""Keys that sign and verify: PEM files of elliptic curve, Ed25519 or RSA keys (``cryptography``).

Signatures as OpenSSF Model Signing v1.0 and DSSE use them: ECDSA in DER form over the curve's hash
(P-256: SHA-256, P-384: SHA-384, P-521: SHA-512), Ed25519 over the message, RSA-PSS with SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pytest_compsec.errors import CompsecError, MissingExtraError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    PrivateKey: TypeAlias = (
        ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
    )
    PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

#: Holds the password of a private key that has one.
PASSWORD_VARIABLE = "COMPSEC_SIGN_PASSWORD"
#: Shorter keys can be broken (NIST SP 800-131A Rev. 2: RSA from 2048 bits, curves from 224).
LEAST_RSA_BITS = 2048
LEAST_CURVE_BITS = 256
_PRIVATE = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_PUBLIC = re.compile(rb"-----BEGIN [A-Z0-9 ]*PUBLIC KEY-----")
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


class SignatureRefused(CompsecError):
    """A signature is not that of this key over these bytes."""


def require_cryptography() -> None:
    """Raise MissingExtraError where ``cryptography`` is not installed."""
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise MissingExtraError("cryptography", "sign", "a signature") from None


def password_from_environment() -> bytes | None:
    """The password in :data:`PASSWORD_VARIABLE`; None where it is not set, or empty."""
    # As its bytes: a password need not be UTF-8.
    return os.fsencode(os.environ.get(PASSWORD_VARIABLE, "")) or None


def load_private_key(path: Path, password: bytes | None = None) -> PrivateKey:
    """The private key in a PEM file. Raises CompsecError for a file that is none, or holds several,
    a kind of key that we do not sign with, and a missing or wrong password."""
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        content = path.read_bytes()
        key = load_pem_private_key(content, password)
    except OSError as error:
        raise CompsecError(f"{path}: cannot be read ({error.strerror})") from None
    except TypeError:
        reason = "has no password: unset" if password else "has a password: set"
        raise CompsecError(f"{path}: the key {reason} {PASSWORD_VARIABLE}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CompsecError(
            f"{path}: not a private key in PEM form, or another password than this one"
        ) from None
    if isinstance(key, (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, rsa.RSAPrivateKey)):
        _require_one(len(_PRIVATE.findall(content)), str(path))
        _require_strong(key, str(path))
        return key
    raise CompsecError(f"{path}: use an elliptic curve, Ed25519 or RSA key, not {_kind(key)}")


def load_public_key(path: Path) -> PublicKey:
    """The public key in a PEM file, or of the first PEM certificate in it, which is taken for the
    key alone: neither its dates nor who issued it are looked at. Raises CompsecError."""
    require_cryptography()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CompsecError(f"{path}: cannot be read ({error.strerror})") from None
    return public_key_of(content, where=str(path))


def public_key_of(content: bytes, *, where: str) -> PublicKey:
    """The public key in PEM text, the only one in it; ``where`` it came from is for the message."""
    require_cryptography()
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY-----" in content:
        raise CompsecError(
            f"{where}: a private key, which stays with whoever signs. Verify with the public one: "
            "openssl pkey -in KEY.pem -pubout -out PUB.pem"
        )
    # A chain of certificates begins with the one that is meant.
    _require_one(len(_PUBLIC.findall(content)) + (_CERTIFICATE in content), where)
    try:
        if _CERTIFICATE in content:
            key: object = x509.load_pem_x509_certificate(content).public_key()
        else:
            key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise CompsecError(f"{where}: not a public key or certificate in PEM form") from None
    if isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, rsa.RSAPublicKey)):
        _require_strong(key, where)
        return key
    raise CompsecError(f"{where}: use an elliptic curve, Ed25519 or RSA key, not {_kind(key)}")


def public_pem(key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo in PEM form."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_hint(key: PublicKey) -> str:
    """sha256 (hex) of the public key's PEM form, as OpenSSF Model Signing names keys."""
    return hashlib.sha256(public_pem(key)).hexdigest()


def sign(key: PrivateKey, message: bytes) -> bytes:
    """The signature of ``message``."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(_curve_hash(key.curve.key_size)))
    return key.sign(message, *_pss())


def verify(key: PublicKey, signature: bytes, message: bytes) -> None:
    """Raise SignatureRefused unless ``signature`` is that of ``key`` over ``message``."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(_curve_hash(key.curve.key_size)))
        else:
            key.verify(signature, message, *_pss())
    except InvalidSignature:
        raise SignatureRefused(
            f"the signature is not that of this key (sha256 {key_hint(key)[:16]}…) over these bytes"
        ) from None


def _curve_hash(bits: int) -> hashes.HashAlgorithm:
    from cryptography.hazmat.primitives import hashes

    if bits <= 256:
        return hashes.SHA256()
    return hashes.SHA384() if bits <= 384 else hashes.SHA512()


def _pss() -> tuple[padding.PSS, hashes.SHA256]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    return padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH), hashes.SHA256()


def _require_one(keys: int, where: str) -> None:
    if keys > 1:
        raise CompsecError(
            f"{where}: holds {keys} keys, and which of them is meant is not said. Put one key in "
            "a file of its own"
        )


def _require_strong(key: PrivateKey | PublicKey, where: str) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    least = None
    if isinstance(key, (rsa.RSAPrivateKey, rsa.RSAPublicKey)):
        least = LEAST_RSA_BITS
    elif isinstance(key, (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)):
        least = LEAST_CURVE_BITS
    bits = getattr(key, "key_size", 0)
    if least is not None and bits < least:
        raise CompsecError(f"{where}: a key of {bits} bits is too weak; use at least {least}")


def _kind(key: object) -> str:
    return type(key).__name__.strip("_")
