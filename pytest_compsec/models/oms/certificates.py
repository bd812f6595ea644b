"""From the certificate that signed a model to one that the user trusts (X.509, RFC 5280).

As model-signing does, the chain is judged at the time when the signer's certificate begins, for
such a signature carries no time that anybody vouches for: it goes on to verify after the
certificate ended, and nothing asks whether it was revoked. Stricter than model-signing: that time
must have come; a certificate with extended key usages, the signer's or an authority's, must be for
signing code, so that neither a web server's nor what issues those is; keys and hashes are strong.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.models.oms.curves import on_model_curve
from pytest_compsec.signing.keys import LEAST_CURVE_BITS, LEAST_RSA_BITS, require_cryptography

if TYPE_CHECKING:
    from cryptography import x509

    from pytest_compsec.signing.keys import PublicKey

_Extension = TypeVar("_Extension", bound="x509.ExtensionType")
_DEEPEST = 8
_HASHES = ("sha256", "sha384", "sha512")


def read_certificates(content: bytes, where: str) -> list[x509.Certificate]:
    """All certificates in PEM text. Raises CompsecError when there is none."""
    require_cryptography()
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(content)
    except (ValueError, x509.InvalidVersion):
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
        if problem is None:
            problem = _way_problem(leaf, certificates[1:], trusted, when)
        key = leaf.public_key()
    except malformed as error:
        raise IntegrityError(f"{where}: a certificate in it cannot be read ({error})") from None
    if problem is not None:
        raise IntegrityError(f"{where}: the signer's certificate {_shown(leaf)} {problem}")
    assert isinstance(key, ec.EllipticCurvePublicKey)  # _leaf_problem saw to it
    return key


def _way_problem(
    leaf: x509.Certificate,
    between: Sequence[x509.Certificate],
    trusted: Sequence[x509.Certificate],
    when: datetime.datetime,
) -> str | None:
    """Why no way leads from ``leaf`` up to one of ``trusted``; None when one does.

    Level by level, so that certificates which issued each other cost no more than others do.
    """
    if leaf in trusted:
        return None
    issuers = {_mark(one): one for one in [*trusted, *between]}
    level, hindrances = [leaf], dict[str, None]()
    for below in range(_DEEPEST + 1):
        above: dict[bytes, x509.Certificate] = {}
        for subject, (mark, issuer) in itertools.product(level, issuers.items()):
            if mark in above or not _issued(subject, issuer):
                continue
            reason = _may_not_issue(issuer, subject, below, when)
            if reason is None and issuer in trusted:
                return None
            if reason is None:
                above[mark] = issuer
            else:
                hindrances[f"{_shown(issuer)} {reason}"] = None
        level = list(above.values())
    lines = [
        "is not issued, directly or through the certificates beside it, by any of the "
        f"{len(trusted)} that are trusted",
        *hindrances,
    ]
    return "\n    ".join(lines)


def _issued(subject: x509.Certificate, issuer: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        subject.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _may_not_issue(
    issuer: x509.Certificate, subject: x509.Certificate, below: int, when: datetime.datetime
) -> str | None:
    """Why ``issuer``, who signed ``subject``, may not have: not valid then, no authority, more
    authorities ``below`` it than it allows, an authority for something else, or weak."""
    from cryptography import x509

    if not issuer.not_valid_before_utc <= when <= issuer.not_valid_after_utc:
        return f"was not valid when it issued {_shown(subject)} ({when:%Y-%m-%d})"
    known = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)
    for one in issuer.extensions:
        # Not understood is not obeyed; names are constrained whether that is critical or not.
        if isinstance(one.value, x509.NameConstraints) or (
            one.critical and not isinstance(one.value, known)
        ):
            return f"has an extension that is not understood here ({one.oid.dotted_string})"
    constraints = _extension(issuer, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        return "is no authority"
    if constraints.path_length is not None and below > constraints.path_length:
        return f"allows {constraints.path_length} authorities below it, and there are {below}"
    usage = _extension(issuer, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        return "may not issue certificates (its key usage leaves keyCertSign out)"
    extended = _extension(issuer, x509.ExtendedKeyUsage)
    if extended is not None and not _for_code(extended, any_purpose=True):
        return "is an authority for something else (its extended key usage leaves codeSigning out)"
    if _weak_key(issuer):
        return "has a key that is too weak"
    if not _strong_signature(subject):
        return f"signed {_shown(subject)} with a hash that is not accepted"
    return None


def _leaf_problem(leaf: x509.Certificate) -> str | None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    known = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage,
             x509.SubjectAlternativeName)  # fmt: skip
    for one in leaf.extensions:
        if one.critical and not isinstance(one.value, known):
            return f"has a critical extension that is not understood here ({one.oid.dotted_string})"
    usage = _extension(leaf, x509.KeyUsage)
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if usage is not None and not usage.digital_signature:
        return "is not for signatures (its key usage leaves digitalSignature out)"
    if extended is not None and not _for_code(extended, any_purpose=False):
        return "is not for signing code (its extended key usage leaves codeSigning out)"
    if usage is None and extended is None:
        return "does not say that it is for signatures (it has no key usage)"
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return "has no elliptic curve key, which model signatures need"
    if not on_model_curve(key):
        return f"has a key on the curve {key.curve.name}; models are signed on P-256, P-384, P-521"
    begin = leaf.not_valid_before_utc
    if begin > datetime.datetime.now(datetime.timezone.utc):
        return (
            f"begins only at {begin:%Y-%m-%d %H:%M} UTC, so nothing can have been signed with it "
            "yet (or the clock of this machine is wrong)"
        )
    return None


def _for_code(usage: x509.ExtendedKeyUsage, *, any_purpose: bool) -> bool:
    from cryptography.x509.oid import ExtendedKeyUsageOID

    if any_purpose and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage:
        return True
    return ExtendedKeyUsageOID.CODE_SIGNING in usage


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _weak_key(certificate: x509.Certificate) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.key_size < LEAST_CURVE_BITS
    return isinstance(key, rsa.RSAPublicKey) and key.key_size < LEAST_RSA_BITS


def _strong_signature(certificate: x509.Certificate) -> bool:
    algorithm = certificate.signature_hash_algorithm
    return algorithm is None or algorithm.name in _HASHES  # None: Ed25519, which hashes itself


def _mark(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256())


def _shown(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string())
