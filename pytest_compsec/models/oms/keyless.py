"""Signatures without a key of their own: Sigstore's short-lived certificates (package sigstore)."""

from __future__ import annotations

from pytest_compsec.errors import IntegrityError, MissingExtraError
from pytest_compsec.models.oms.bundle import Bundle
from pytest_compsec.signing.dsse import IN_TOTO


def verify_keyless(bundle: Bundle, identity: str, issuer: str, where: str) -> None:
    """Raise IntegrityError unless ``identity``, as ``issuer`` (the URL of an OpenID provider) knows
    it, signed the envelope and the public log says so.

    Works without a network: the roots of trust are those that came with the package, or that it
    fetched later, from its folder in the user's cache. Raises MissingExtraError without the
    package, for then nothing about such a signature can be verified.
    """
    try:
        from sigstore.errors import Error
        from sigstore.models import Bundle as SigstoreBundle
        from sigstore.verify import Verifier
        from sigstore.verify.policy import Identity
    except ImportError:
        raise MissingExtraError(
            "sigstore", "sigstore", f"{where}: verifying a signature made with Sigstore"
        ) from None
    try:
        signed = SigstoreBundle.from_json(bundle.text)
        verifier = Verifier.production(offline=True)
        kind, payload = verifier.verify_dsse(signed, Identity(identity=identity, issuer=issuer))
    except (Error, ValueError) as error:
        raise IntegrityError(
            f"{where}: is not signed by {identity!r} ({issuer}): {' '.join(str(error).split())}"
        ) from None
    except OSError as error:
        raise IntegrityError(
            f"{where}: cannot be verified, for sigstore keeps its roots of trust in a folder that "
            f"it cannot use ({error.filename}: {error.strerror}). Set XDG_CACHE_HOME to one that "
            "can be written to"
        ) from None
    if kind != IN_TOTO or payload != bundle.envelope.payload:
        raise IntegrityError(f"{where}: the payload that Sigstore verified is not the one read")
