"""From a signer's certificate to a trusted one: every step must be allowed."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.models.oms.certificates import read_certificates, signer_key
from pytest_compsec.signing import keys
from tests.unit.models.oms.signers import START, YEAR, certificate, der, key, pem, usage

ROOT = certificate("root", "root", authority=True)
MIDDLE = certificate("middle", "root", authority=True)
SIGNER = certificate("publisher", "middle")


def accepted(*chain: x509.Certificate, trusted: list[x509.Certificate]) -> bool:
    try:
        found = signer_key(der(*chain), trusted, "model.sig")
    except IntegrityError as error:
        if "model.sig: the signer's certificate 'CN=publisher' is not issued" not in str(error):
            raise
        return False
    assert keys.key_hint(found) == keys.key_hint(key("publisher").public_key())
    return True


def test_the_way_to_a_trusted_authority_is_found_through_what_is_beside_it() -> None:
    assert accepted(SIGNER, MIDDLE, trusted=[ROOT])
    assert accepted(SIGNER, ROOT, MIDDLE, trusted=[ROOT])
    assert accepted(SIGNER, trusted=[ROOT, MIDDLE])
    assert not accepted(SIGNER, trusted=[ROOT])
    namesake = certificate("root", "root", authority=True, key_name="x", signed_by="x")
    assert not accepted(SIGNER, MIDDLE, ROOT, trusted=[namesake])


def test_the_signer_s_own_certificate_can_be_trusted() -> None:
    assert accepted(SIGNER, trusted=[SIGNER])
    assert not accepted(certificate("publisher", "middle", signed_by="impostor"), trusted=[SIGNER])


@pytest.mark.parametrize(
    "middle",
    [
        {"authority": False, "key_usage": usage(issues=True)},
        {"key_usage": usage(signs=True)},
        {"start": START + YEAR},
        {"end": START - YEAR, "start": START - 2 * YEAR},
        {"signed_by": "impostor"},
        {"extra": x509.NameConstraints([x509.DNSName("example.org")], None)},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_may_not_issue_does_not(middle: dict[str, Any]) -> None:
    faulty = certificate("middle", "root", **{"authority": True, **middle})
    assert not accepted(SIGNER, faulty, trusted=[ROOT])


def test_an_authority_that_allows_none_below_it_is_obeyed() -> None:
    short = certificate("root", "root", authority=True, path_length=0)
    assert accepted(certificate("publisher", "root"), trusted=[short])
    assert not accepted(SIGNER, MIDDLE, trusted=[short])


@pytest.mark.parametrize(
    ("signer", "words"),
    [
        ({"key_usage": usage(issues=True)}, "leaves digitalSignature out"),
        ({"purpose": ExtendedKeyUsageOID.SERVER_AUTH}, "leaves codeSigning out"),
        ({"extra": x509.PolicyConstraints(0, None)}, "critical extension that is not understood"),
    ],
)
def test_a_certificate_for_something_else_signs_no_model(
    signer: dict[str, Any], words: str
) -> None:
    leaf = certificate("publisher", "root", **signer)
    with pytest.raises(IntegrityError, match=words):
        signer_key(der(leaf), [ROOT], "model.sig")


def test_without_extended_usage_the_key_usage_decides() -> None:
    assert accepted(certificate("publisher", "root", extended=False), trusted=[ROOT])


def test_a_certificate_that_ended_still_vouches_for_what_it_signed() -> None:
    """As model-signing has it: the chain is judged at the time when the signer's begins."""
    assert accepted(certificate("publisher", "root", end=START + YEAR / 365), trusted=[ROOT])


def test_rubbish_is_refused_in_words() -> None:
    with pytest.raises(IntegrityError, match="a certificate in it cannot be read"):
        signer_key([b"rubbish"], [ROOT], "model.sig")
    with pytest.raises(CompsecError, match=r"ca\.pem: holds no certificate in PEM form"):
        read_certificates(b"rubbish", "ca.pem")
    assert len(read_certificates(pem(ROOT, MIDDLE), "ca.pem")) == 2
