"""Tests of pytest_compsec.matrix."""
