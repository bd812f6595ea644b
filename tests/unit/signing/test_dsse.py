"""Envelopes: the protocol's own test vector, and every way to exchange what was signed."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import pytest

pytest.importorskip("cryptography")

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from pytest_compsec.errors import CompsecError
from pytest_compsec.signing import dsse, keys
from tests.unit.signing.test_keys import KINDS, new_key

#: github.com/secure-systems-lab/dsse, protocol.md, "Test Vectors" (Apache-2.0).
X = 46950820868899156662930047687818585632848591499744589407958293238635476079160
Y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
VECTOR = {
    "payload": "aGVsbG8gd29ybGQ=",
    "payloadType": "http://example.com/HelloWorld",
    "signatures": [
        {
            "sig": "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfU"
            "iHqJPcIAriEGAHTVeCUjW2JIZA=="
        }
    ],
}


def test_the_vector_of_the_protocol_verifies() -> None:
    envelope = dsse.envelope_of(VECTOR, where="vector")
    encoded = dsse.pre_authentication_encoding(envelope.payload_type, envelope.payload)
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    # The vector's signature is r and s side by side; ours are in DER form.
    raw = envelope.signatures[0].sig
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key = ec.EllipticCurvePublicNumbers(X, Y, ec.SECP256R1()).public_key()
    dsse.verify_envelope(dataclasses.replace(envelope, signatures=(dsse.Signature(der),)), key)
    with pytest.raises(keys.SignatureRefused):
        dsse.verify_envelope(envelope, key)


def test_lengths_are_those_of_bytes_not_of_letters() -> None:
    assert dsse.pre_authentication_encoding("tüp", "ö".encode()) == "DSSEv1 4 tüp 2 ö".encode()


@pytest.mark.parametrize("kind", KINDS)
def test_an_envelope_survives_json_and_only_its_key_opens_it(kind: str) -> None:
    key = new_key(kind)
    envelope = dsse.sign_envelope(b'{"a": 1}', dsse.IN_TOTO, key)
    text = json.dumps(envelope.to_json())
    back = dsse.envelope_of(json.loads(text), where="here")
    assert back == envelope
    dsse.verify_envelope(back, key.public_key())
    assert back.signatures[0].keyid == keys.key_hint(key.public_key())
    with pytest.raises(keys.SignatureRefused, match="not that of this key"):
        dsse.verify_envelope(back, new_key(kind).public_key())
    for changed in (
        dataclasses.replace(back, payload=b'{"a": 2}'),
        dataclasses.replace(back, payload_type="application/json"),
        # The border between type and payload moved: the same bytes in a row, another meaning.
        dataclasses.replace(back, payload_type=f"{dsse.IN_TOTO} ", payload=b'"a": 1}'),
        dataclasses.replace(back, signatures=(dsse.Signature(b"", back.signatures[0].keyid),)),
    ):
        with pytest.raises(keys.SignatureRefused):
            dsse.verify_envelope(changed, key.public_key())


def test_one_of_several_signatures_suffices_and_the_key_id_decides_nothing() -> None:
    ours, theirs = new_key("p256"), new_key("ed25519")
    first = dsse.sign_envelope(b"x", "t", theirs)
    second = dsse.sign_envelope(b"x", "t", ours)
    swapped = (
        dsse.Signature(first.signatures[0].sig, second.signatures[0].keyid),
        dsse.Signature(second.signatures[0].sig, first.signatures[0].keyid),
    )
    both = dataclasses.replace(first, signatures=swapped)
    dsse.verify_envelope(both, ours.public_key())
    dsse.verify_envelope(both, theirs.public_key())
    with pytest.raises(keys.SignatureRefused):
        dsse.verify_envelope(both, new_key("p256").public_key())


def test_either_alphabet_of_base64_is_read() -> None:
    payload = bytes(range(256))
    data = dsse.sign_envelope(payload, "t", new_key("p256")).to_json()
    safe = {**data, "payload": base64.urlsafe_b64encode(payload).decode()}
    assert safe["payload"] != data["payload"]
    assert dsse.envelope_of(safe, where="x") == dsse.envelope_of(data, where="x")


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": "not base64!"},
        {"payload": "YQ"},
        {"payload": 7},
        {"payload": None},
        {"payloadType": None},
        {"payloadType": ["a"]},
        {"signatures": None},
        {"signatures": []},
        {"signatures": ["sig"]},
        {"signatures": [{"keyid": "k"}]},
        {"signatures": [{"sig": "!"}]},
        {"signatures": [{"sig": "YQ==", "keyid": 5}]},
    ],
)
def test_what_is_no_envelope_is_refused_by_name(changes: dict[str, Any]) -> None:
    good = dsse.sign_envelope(b"x", "t", new_key("ed25519")).to_json()
    with pytest.raises(CompsecError, match=r"file\.json: (not|a) (a )?DSSE envelope"):
        dsse.envelope_of({**good, **changes}, where="file.json")


@pytest.mark.parametrize("data", [None, [], "text", 3, {}])
def test_other_json_is_no_envelope(data: object) -> None:
    with pytest.raises(CompsecError, match="not a DSSE envelope"):
        dsse.envelope_of(data, where="x")
