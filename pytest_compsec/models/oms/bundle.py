"""The file ``model.sig``: a Sigstore bundle v0.3 around a DSSE envelope.

What is read is exact: one way to verify, one signature, one media type. A bundle that names two
ways could be read by two tools in two ways.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.models.oms.statement import strict_json
from pytest_compsec.signing.dsse import IN_TOTO, Envelope, envelope_of

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_BYTES = 64 * 1024 * 1024
_MAX_CERTIFICATES = 16
Method = Literal["key", "certificates", "sigstore"]
_IN_ENVELOPE = {"payload", "payloadType", "signatures"}
_IN_SIGNATURE = {"sig", "keyid"}
_MATERIAL: dict[str, Method] = {
    "publicKey": "key",
    "x509CertificateChain": "certificates",
    "certificate": "sigstore",
}


@dataclasses.dataclass(frozen=True)
class Bundle:
    """``method`` is how it was signed. ``key_hint`` names the key (sha256 of its PEM form);
    ``certificates`` (DER) begin with the signer's. ``text`` is the file as it was read."""

    method: Method
    envelope: Envelope
    key_hint: str | None = None
    certificates: tuple[bytes, ...] = ()
    text: str = dataclasses.field(default="", repr=False)


def read_bundle(content: bytes, where: str) -> Bundle:
    """The bundle in the bytes of a ``model.sig``. Raises IntegrityError with the reason."""
    if len(content) > MAX_BYTES:
        raise IntegrityError(f"{where}: is larger than {MAX_BYTES} bytes, which no signature is")
    top = strict_json(content, where, "the signature")
    media_type = top.get("mediaType")
    if media_type != MEDIA_TYPE:
        raise IntegrityError(
            f"{where}: is a {str(media_type)[:80]!r}, not a Sigstore bundle ({MEDIA_TYPE})"
        )
    unknown = sorted(top.keys() - {"mediaType", "verificationMaterial", "dsseEnvelope"})
    if unknown:
        raise IntegrityError(f"{where}: has an unknown part {unknown[0][:80]!r}")
    material = top.get("verificationMaterial")
    if not isinstance(material, Mapping):
        raise IntegrityError(f"{where}: has no 'verificationMaterial', so nothing can verify it")
    methods = [method for key, method in _MATERIAL.items() if material.get(key) is not None]
    if len(methods) != 1:
        raise IntegrityError(
            f"{where}: its 'verificationMaterial' must hold exactly one of "
            f"{', '.join(_MATERIAL)}; it holds {len(methods)}"
        )
    return Bundle(
        methods[0],
        _envelope(top.get("dsseEnvelope"), where),
        key_hint=_hint(material.get("publicKey"), where),
        certificates=_certificates(methods[0], material, where),
        text=content.decode("utf-8"),
    )


def bundle_text(envelope: Envelope, *, key_hint: str = "", chain: Sequence[bytes] = ()) -> str:
    """A ``model.sig``: with a ``chain`` (DER, the signer's first) of the method ``certificates``,
    else of the method ``key``."""
    certificates = [{"rawBytes": base64.b64encode(one).decode("ascii")} for one in chain]
    material: dict[str, Any] = (
        {"x509CertificateChain": {"certificates": certificates}}
        if certificates
        else {"publicKey": {"hint": key_hint}}
    )
    value = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {**material, "tlogEntries": []},
        "dsseEnvelope": envelope.to_json(),
    }
    return json.dumps(value, indent=2) + "\n"


def _envelope(value: Any, where: str) -> Envelope:
    if value is None:
        raise IntegrityError(f"{where}: has no 'dsseEnvelope', so nothing was signed")
    try:
        envelope = envelope_of(value, where=where)
    except CompsecError as error:
        raise IntegrityError(str(error)) from None
    parts = [(value, _IN_ENVELOPE), *((one, _IN_SIGNATURE) for one in value["signatures"])]
    unknown = sorted(key for part, known in parts for key in part.keys() - known)
    if unknown:
        raise IntegrityError(f"{where}: its envelope has an unknown part {unknown[0][:80]!r}")
    if envelope.payload_type != IN_TOTO:
        raise IntegrityError(f"{where}: signs a {envelope.payload_type[:80]!r}, not {IN_TOTO!r}")
    if len(envelope.signatures) != 1:
        raise IntegrityError(f"{where}: has {len(envelope.signatures)} signatures instead of one")
    return envelope


def _hint(value: object, where: str) -> str | None:
    if value is None:
        return None
    hint = value.get("hint") if isinstance(value, Mapping) else value
    if hint is not None and not isinstance(hint, str):
        raise IntegrityError(f"{where}: the hint at its key is no text")
    return hint or None  # none in bundles of model-signing 1.0


def _certificates(method: Method, material: Mapping[str, Any], where: str) -> tuple[bytes, ...]:
    try:
        if method == "sigstore":
            if not material.get("tlogEntries"):
                raise IntegrityError(
                    f"{where}: is signed without a key of its own (Sigstore) and names no entry "
                    "of a transparency log ('tlogEntries')"
                )
            return (_der(material["certificate"]),)
        if method == "key":
            return ()
        chain = material["x509CertificateChain"]["certificates"]
        if not 1 <= len(chain) <= _MAX_CERTIFICATES:
            raise ValueError(f"{len(chain)} certificates")
        return tuple(_der(one) for one in chain)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{where}: its certificates cannot be read ({error})") from None


def _der(value: Any) -> bytes:
    try:
        return base64.b64decode(value["rawBytes"], validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
