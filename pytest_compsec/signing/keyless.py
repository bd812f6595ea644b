"""Signatures without a key of one's own: an identity that a CI system vouches for, through Sigstore
(the package ``sigstore``). The one place that knows its API.

Signing takes the ambient OpenID Connect identity of the job, gets a certificate of some minutes for
it, and notes the signature in a public log that everyone can read. Verifying asks for the identity
and for who vouched for it; both are needed, for anyone can sign as themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_compsec.errors import CompsecError, MissingExtraError
from pytest_compsec.signing.statement import CertificateRefused

if TYPE_CHECKING:
    from sigstore.oidc import IdentityToken


def require_sigstore() -> None:
    """Raise MissingExtraError where ``sigstore`` is not installed."""
    try:
        import sigstore.sign  # noqa: F401
    except ImportError:
        raise MissingExtraError("sigstore", "sigstore", "a signature without a key") from None


def require_identity() -> None:
    """Raise CompsecError where no job of a CI system vouches for who runs this."""
    _ambient_identity()


def sign_statement(statement: str) -> str:
    """The text of a Sigstore bundle around a statement's text. Raises CompsecError with what the
    service, or the lack of an identity, said."""
    require_sigstore()
    from sigstore.dsse import Statement
    from sigstore.errors import Error
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import ExpiredIdentity
    from sigstore.sign import ExpiredCertificate, SigningContext

    token = _ambient_identity()
    try:
        context = SigningContext.from_trust_config(ClientTrustConfig.production())
        with context.signer(token) as signer:
            return str(signer.sign_dsse(Statement(statement.encode())).to_json())
    except (Error, ExpiredIdentity, ExpiredCertificate, OSError) as error:
        raise CompsecError(f"not signed by Sigstore: {_said(error)}") from None


def verified_payload(bundle: str, identity: str, issuer: str) -> tuple[str, bytes]:
    """Type and bytes of what is signed in a bundle. Raises CertificateRefused for another identity
    or issuer, another signature, or a bundle that is none."""
    require_sigstore()
    from sigstore.errors import Error
    from sigstore.models import Bundle
    from sigstore.verify import Verifier, policy

    asked = policy.Identity(identity=identity, issuer=issuer)
    try:
        found = Bundle.from_json(bundle)
    except (Error, ValueError) as error:
        raise CertificateRefused(f"is no bundle of Sigstore ({_said(error)})") from None
    try:
        verifier = Verifier.production()
    except (Error, OSError) as error:
        # No verdict on the certificate: what Sigstore's signers are could not be learnt.
        raise CompsecError(f"the keys of Sigstore cannot be had: {_said(error)}") from None
    try:
        payload_type, payload = verifier.verify_dsse(found, asked)
    except Error as error:
        raise CertificateRefused(f"the signature is refused by Sigstore: {_said(error)}") from None
    return str(payload_type), bytes(payload)


def _ambient_identity() -> IdentityToken:
    require_sigstore()
    from sigstore.oidc import IdentityError, IdentityToken, detect_credential

    try:
        credential = detect_credential()
        if credential is None:
            raise CompsecError(
                "no CI system vouches for this job. In GitHub Actions "
                "give it `permissions: id-token: write`, or sign with --compsec-sign-key"
            )
        return IdentityToken(credential)
    except IdentityError as error:
        raise CompsecError(_said(error)) from None


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
