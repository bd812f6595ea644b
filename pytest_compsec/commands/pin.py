"""``compsec pin`` and ``compsec verify``: write the lock, compare with the lock."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from pytest_compsec.errors import ConfigError

_HEX = re.compile(r"[0-9a-fA-F]{64}")


def parse_expectations(items: list[str]) -> dict[str, str]:
    """``FILE=HEX`` items. Raises ConfigError for another shape or two digests for one file."""
    expectations: dict[str, str] = {}
    for item in items:
        name, _, digest = item.rpartition("=")
        if not name or _HEX.fullmatch(digest) is None:
            raise ConfigError(
                f"--expect {item!r} must be FILE=HEX with a sha256 of 64 hexadecimal digits"
            )
        if expectations.setdefault(name, digest.lower()) != digest.lower():
            raise ConfigError(f"--expect gives two digests for {name!r}")
    return expectations


def run_pin(arguments: argparse.Namespace) -> int:
    """Pin, and print what changed. Exit code 0."""
    from pytest_compsec.models.pinning import pin

    result = pin(
        Path(arguments.config),
        expect=parse_expectations(arguments.expect),
        notify=lambda text: print(f"... {text}", file=sys.stderr, flush=True),
        tensors=arguments.tensors,
    )
    for line in result.changes:
        print(line)
    if result.created:
        print(f"\nWrote {result.path}: review it and commit it beside the config.")
    elif result.changes:
        print(f"\nChanged {result.path}: review the changes above before you commit it.")
    else:
        print(f"Nothing changed: {result.path} already pins all of this.")
    print(f"sha256 of the lock: {result.lock.digest}")
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Compare everything with the lock. Exit code 0 when all is as pinned, else 1."""
    from pytest_compsec.models.verification import config_and_lock, verify_lock

    loaded, lock = config_and_lock(Path(arguments.config))
    report = verify_lock(loaded, lock)
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
        return 1 if report.problems else 0
    for problem in report.problems:
        print(f"{problem.kind.upper()}  {problem.message}")
    for note in report.notes:
        print(f"note: {note}")
    print(f"sha256 of the lock: {report.lock_digest}")
    if report.problems:
        print(
            f"\n{len(report.problems)} problem(s). If a change is wanted, review it and run "
            "`compsec pin`; else restore the files."
        )
        return 1
    print(f"All {report.files} pinned files and every other pin match {loaded.lock_path}.")
    return 0
