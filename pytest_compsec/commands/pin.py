"""``compsec pin`` and ``compsec verify``: write the lock, compare with the lock."""

from __future__ import annotations

import argparse
import json
import os
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
    codes = [_verify(config, as_json=arguments.json) for config in _configs(arguments)]
    return max(codes)


def _configs(arguments: argparse.Namespace) -> list[Path]:
    """The config, or those of the suites that the named files belong to: pre-commit names what
    changed, in whichever folder. Raises ConfigError where they belong to none."""
    from pytest_compsec.config.loading import CONFIG_NAME, LOCK_NAME

    if not arguments.files:
        return [Path(arguments.config or CONFIG_NAME)]
    if arguments.config is not None:
        raise ConfigError("compsec verify: name files or --config, not both")
    from pytest_compsec.suite import find_config

    found: dict[Path, None] = {}
    for text in arguments.files:
        path = Path(text)
        # A lock belongs to the config beside it, be it there or not.
        config = (
            path.with_name(CONFIG_NAME)
            if path.name in (CONFIG_NAME, LOCK_NAME)
            else find_config(path.absolute(), Path.cwd())
        )
        if config is None:
            print(f"note: {text}: no {CONFIG_NAME} above it, so it is of no suite", file=sys.stderr)
        else:
            found[Path(os.path.relpath(config))] = None
    if not found:
        raise ConfigError(
            f"compsec verify: no {CONFIG_NAME} in the folders of {', '.join(arguments.files)} or "
            f"above, up to {Path.cwd()}: nothing was verified"
        )
    if arguments.json and len(found) > 1:
        raise ConfigError("compsec verify --json: of one suite at a time")
    return list(found)


def _verify(config: Path, *, as_json: bool) -> int:
    from pytest_compsec.models.verification import config_and_lock, verify_lock

    loaded, lock = config_and_lock(config)
    report = verify_lock(loaded, lock)
    if as_json:
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
