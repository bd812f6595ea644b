"""From the certificate that signed a model to one that the user trusts (X.509, RFC 5280).

As model-signing does, the chain is judged at the time when the signer's certificate begins, for
such a signature carries no time that anybody vouches for: it goes on to verify after the
certificate ended, and nothing asks whether it was revoked. Stricter than model-signing: a
certificate with extended key usages must be for signing code, so that a web server's is none.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.signing.keys import require_cryptography

if TYPE_CHECKING:
    from cryptography import x509

    from pytest_compsec.signing.keys import PublicKey

_Extension = TypeVar("_Extension", bound="x509.ExtensionType")
_DEEPEST = 8
_LEAST_RSA_BITS = 2048
_HASHES = ("sha256", "sha384", "sha512")


def read_certificates(content: bytes, where: str) -> list[x509.Certificate]:
    """All certificates in PEM text. Raises CompsecError when there is none."""
    require_cryptography()
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise CompsecError(f"{where}: holds no certificate in PEM form") from None


def load_certificates(paths: Sequence[Path]) -> list[x509.Certificate]:
    """All certificates of PEM files. Raises CompsecError."""
    found: list[x509.Certificate] = []
    for path in paths:
        try:
            found += read_certificates(path.read_bytes(), str(path))
        except OSError as error:
            raise CompsecError(f"{path}: cannot be read ({error.strerror})") from None
    return found


def signer_key(
    chain: Sequence[bytes], trusted: Sequence[x509.Certificate], where: str
) -> PublicKey:
    """The key of ``chain[0]`` (DER), once a way from it to one of ``trusted`` is found.

    The certificates after the first may be on the way. Raises IntegrityError with the reason.
    """
    require_cryptography()
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec

    malformed = (
        ValueError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    )
    try:
        certificates = [x509.load_der_x509_certificate(one) for one in chain]
        leaf = certificates[0]
        when = leaf.not_valid_before_utc
        problem = _leaf_problem(leaf)
        if problem is None and not _leads(leaf, certificates[1:], trusted, when):
            problem = (
                "is not issued, directly or through the certificates beside it, by any of the "
                f"{len(trusted)} that are trusted"
            )
        key = leaf.public_key()
    except malformed as error:
        raise IntegrityError(f"{where}: a certificate in it cannot be read ({error})") from None
    if problem is not None:
        raise IntegrityError(f"{where}: the signer's certificate {_shown(leaf)} {problem}")
    assert isinstance(key, ec.EllipticCurvePublicKey)  # _leaf_problem saw to it
    return key


def _leads(
    leaf: x509.Certificate,
    between: Sequence[x509.Certificate],
    trusted: Sequence[x509.Certificate],
    when: datetime.datetime,
) -> bool:
    if leaf in trusted:
        return True

    def climb(certificate: x509.Certificate, depth: int, seen: frozenset[bytes]) -> bool:
        for issuer in [*trusted, *between]:
            mark = _mark(issuer)
            if mark in seen or not _may_issue(issuer, certificate, depth, when):
                continue
            if issuer in trusted:
                return True
            if depth < _DEEPEST and climb(issuer, depth + 1, seen | {mark}):
                return True
        return False

    return climb(leaf, 0, frozenset({_mark(leaf)}))


def _may_issue(
    issuer: x509.Certificate, subject: x509.Certificate, below: int, when: datetime.datetime
) -> bool:
    """Whether ``issuer`` signed ``subject`` and may: an authority, valid then, with at most as many
    authorities ``below`` it as it allows."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    if not issuer.not_valid_before_utc <= when <= issuer.not_valid_after_utc:
        return False
    known = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)
    if any(one.critical and not isinstance(one.value, known) for one in issuer.extensions):
        return False  # such as name constraints: not understood is not obeyed
    constraints = _extension(issuer, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        return False
    if constraints.path_length is not None and below > constraints.path_length:
        return False
    usage = _extension(issuer, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        return False
    if _weak_key(issuer) or not _strong_signature(subject):
        return False
    try:
        subject.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _leaf_problem(leaf: x509.Certificate) -> str | None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    known = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage,
             x509.SubjectAlternativeName)  # fmt: skip
    for one in leaf.extensions:
        if one.critical and not isinstance(one.value, known):
            return f"has a critical extension that is not understood here ({one.oid.dotted_string})"
    usage = _extension(leaf, x509.KeyUsage)
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if usage is not None and not usage.digital_signature:
        return "is not for signatures (its key usage leaves digitalSignature out)"
    if extended is not None and ExtendedKeyUsageOID.CODE_SIGNING not in extended:
        return "is not for signing code (its extended key usage leaves codeSigning out)"
    if usage is None and extended is None:
        return "does not say that it is for signatures (it has no key usage)"
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return "has no elliptic curve key, which model signatures need"
    return None


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _weak_key(certificate: x509.Certificate) -> bool:
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = certificate.public_key()
    return isinstance(key, rsa.RSAPublicKey) and key.key_size < _LEAST_RSA_BITS


def _strong_signature(certificate: x509.Certificate) -> bool:
    algorithm = certificate.signature_hash_algorithm
    return algorithm is None or algorithm.name in _HASHES  # None: Ed25519, which hashes itself


def _mark(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256())


def _shown(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string())
