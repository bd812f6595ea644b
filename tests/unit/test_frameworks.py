"""Every check has its identifiers, and they are entries of the two frameworks."""

from __future__ import annotations

from pytest_compsec.frameworks import FRAMEWORKS, NIST, OWASP, frameworks_of
from pytest_compsec.markers import MARKERS


def test_every_marker_has_identifiers_that_exist() -> None:
    assert set(FRAMEWORKS) == set(MARKERS)
    for found in FRAMEWORKS.values():
        assert found.owasp or found.nist
        assert set(found.owasp) <= set(OWASP)
        assert set(found.nist) <= set(NIST)


def test_lost_refusals_are_misinformation_too() -> None:
    assert "LLM09" in frameworks_of("safety_preserved").owasp
    assert "LLM02" in frameworks_of("leakage_not_increased").owasp


def test_a_check_of_others_has_none() -> None:
    assert frameworks_of("of_a_plugin").text() == ""
