"""Shared by this repository's own tests and its example suite."""

pytest_plugins = ["pytester"]
