"""From a signer's certificate to a trusted one: every step must be allowed."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from pytest_compsec.errors import CompsecError, IntegrityError
from pytest_compsec.models.oms import certificates
from pytest_compsec.models.oms.certificates import read_certificates, signer_key
from pytest_compsec.signing import keys
from tests.unit.models.oms.signers import START, YEAR, certificate, der, key, pem, usage

ROOT = certificate("root", "root", authority=True)
MIDDLE = certificate("middle", "root", authority=True)
SIGNER = certificate("publisher", "middle")
SERVERS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])


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
        {"extra": x509.NameConstraints([x509.DNSName("a.org")], None), "critical": False},
        {"extra": SERVERS, "critical": False},
    ],
    ids=lambda given: "-".join(given),
)
def test_what_may_not_issue_does_not(middle: dict[str, Any]) -> None:
    faulty = certificate("middle", "root", **{"authority": True, **middle})
    assert not accepted(SIGNER, faulty, trusted=[ROOT])


@pytest.mark.parametrize(
    ("authority", "words"),
    [
        ({"extra": SERVERS}, r"'CN=root' is an authority for something else"),
        ({"end": START - YEAR, "start": START - 2 * YEAR},
         r"'CN=root' was not valid when it issued 'CN=publisher' \(2026-01-01\)"),
        ({"authority": False, "key_usage": usage(issues=True)}, r"'CN=root' is no authority"),
    ],
)  # fmt: skip
def test_it_is_said_why_the_one_who_issued_it_may_not(
    authority: dict[str, Any], words: str
) -> None:
    root = certificate("root", "root", **{"authority": True, **authority})
    with pytest.raises(IntegrityError, match=rf"(?s)is not issued.*1 that are trusted\n +{words}"):
        signer_key(der(certificate("publisher", "root")), [root], "model.sig")


@pytest.mark.parametrize("purpose", ["CODE_SIGNING", "ANY_EXTENDED_KEY_USAGE"])
def test_an_authority_for_code_may_issue(purpose: str) -> None:
    extra = x509.ExtendedKeyUsage([getattr(ExtendedKeyUsageOID, purpose)])
    middle = certificate("middle", "root", authority=True, extra=extra)
    assert accepted(SIGNER, middle, trusted=[ROOT])


def test_a_weak_key_of_an_authority_vouches_for_nobody() -> None:
    weak = certificate("P-192", "P-192", authority=True)
    assert not accepted(certificate("publisher", "P-192"), trusted=[weak])
    strong = certificate("P-384", "P-384", authority=True)
    assert accepted(certificate("publisher", "P-384"), trusted=[strong])


@pytest.mark.parametrize(("curve", "fine"), [("P-384", True), ("P-521", True), ("P-192", False),
                                             ("P-224", False), ("K-256", False)])  # fmt: skip
def test_the_signer_s_key_is_on_a_curve_of_the_specification(curve: str, fine: bool) -> None:
    chain = der(certificate("publisher", "root", key_name=curve))
    if fine:
        assert signer_key(chain, [ROOT], "model.sig") == key(curve).public_key()
        return
    with pytest.raises(IntegrityError, match="models are signed on P-256, P-384, P-521"):
        signer_key(chain, [ROOT], "model.sig")


def test_certificates_that_issued_each_other_cost_no_more_than_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stranger can put them into a signature, and all ways through them are more than a run can
    try."""
    ring = [certificate("x", "x", authority=True) for _ in range(15)]
    tried = []
    issued = certificates._issued

    def counted(subject: x509.Certificate, issuer: x509.Certificate) -> bool:
        tried.append(issuer)
        return issued(subject, issuer)

    monkeypatch.setattr(certificates, "_issued", counted)
    assert not accepted(certificate("publisher", "x"), *ring, trusted=[ROOT])
    assert len(tried) < 3000


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


def test_a_certificate_that_begins_tomorrow_has_signed_nothing_yet() -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    future = certificate("publisher", "root", start=now + YEAR / 365, end=now + YEAR)
    with pytest.raises(IntegrityError, match=r"begins only at .* nothing can have been signed"):
        signer_key(der(future), [ROOT], "model.sig")


def test_rubbish_is_refused_in_words() -> None:
    with pytest.raises(IntegrityError, match="a certificate in it cannot be read"):
        signer_key([b"rubbish"], [ROOT], "model.sig")
    with pytest.raises(CompsecError, match=r"ca\.pem: holds no certificate in PEM form"):
        read_certificates(b"rubbish", "ca.pem")
    assert len(read_certificates(pem(ROOT, MIDDLE), "ca.pem")) == 2
