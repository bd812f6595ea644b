"""Envelopes of DSSE (Dead Simple Signing Envelope 1.0, secure-systems-lab/dsse): what is signed is
the type and the bytes of a payload, so that neither can be exchanged."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.errors import CompsecError
from pytest_compsec.signing import keys

if TYPE_CHECKING:
    from pytest_compsec.signing.keys import PrivateKey, PublicKey

IN_TOTO = "application/vnd.in-toto+json"
_URL_SAFE = str.maketrans("-_", "+/")


@dataclasses.dataclass(frozen=True)
class Signature:
    """``keyid`` is a hint, not a proof."""

    sig: bytes
    keyid: str = ""


@dataclasses.dataclass(frozen=True)
class Envelope:
    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    def to_json(self) -> dict[str, Any]:
        """As DSSE writes it: base64 in JSON."""
        return {
            "payloadType": self.payload_type,
            "payload": base64.b64encode(self.payload).decode(),
            "signatures": [
                {"keyid": one.keyid, "sig": base64.b64encode(one.sig).decode()}
                for one in self.signatures
            ],
        }


def envelope_of(data: object, *, where: str) -> Envelope:
    """The inverse of :meth:`Envelope.to_json`; base64 of either alphabet, as the protocol asks.
    Raises CompsecError, naming ``where``."""
    try:
        if not isinstance(data, Mapping):
            raise TypeError("not an object")
        found = Envelope(
            _bytes(data["payload"]),
            _text(data["payloadType"]),
            tuple(
                Signature(_bytes(one["sig"]), _text(one.get("keyid") or ""))
                for one in data["signatures"]
            ),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CompsecError(
            f"{where}: not a DSSE envelope ({type(error).__name__}: {error})"
        ) from None
    if not found.signatures:
        raise CompsecError(f"{where}: a DSSE envelope without a signature")
    return found


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What is signed: ``DSSEv1 LEN(type) type LEN(payload) payload``, lengths in bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_envelope(payload: bytes, payload_type: str, key: PrivateKey) -> Envelope:
    """An envelope with one signature, its key id :func:`keys.key_hint`."""
    signature = keys.sign(key, pre_authentication_encoding(payload_type, payload))
    return Envelope(payload, payload_type, (Signature(signature, keys.key_hint(key.public_key())),))


def verify_envelope(envelope: Envelope, key: PublicKey) -> None:
    """Raise SignatureRefused unless one of the signatures is that of ``key``."""
    message = pre_authentication_encoding(envelope.payload_type, envelope.payload)
    last: keys.SignatureRefused | None = None
    for one in envelope.signatures:
        try:
            keys.verify(key, one.sig, message)
        except keys.SignatureRefused as error:
            last = error
        else:
            return
    assert last is not None  # an envelope has a signature
    raise last


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, not {type(value).__name__}")
    value.encode()  # half a character is no text: UnicodeEncodeError, a ValueError
    return value


def _bytes(value: object) -> bytes:
    text = _text(value).translate(_URL_SAFE)
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
