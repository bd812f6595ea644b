"""Tests of pytest_compsec.derivation."""
