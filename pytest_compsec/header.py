"""What a run says after collection, when it has compsec tests: models, pairs, device, lock."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
from typing import TYPE_CHECKING

import pytest

from pytest_compsec.collection import pair_id, pair_parameter
from pytest_compsec.givens import overridden
from pytest_compsec.markers import marked_checks
from pytest_compsec.models.served.wording import header_lines as served_lines
from pytest_compsec.presets import DEFAULT_LEVEL, SUITE, checks_on, left_out
from pytest_compsec.run import CHECKS, PairParameter, Run

if TYPE_CHECKING:
    from pathlib import Path


def header_lines(run: Run, items: list[pytest.Item]) -> list[str]:
    """One line per suite in use, one for the device, and what levels leave out. Loads no torch."""
    used: dict[Path, dict[str, None]] = {}
    for item in items:
        parameter = pair_parameter(item)
        if CHECKS in item.stash and isinstance(parameter, PairParameter):
            used.setdefault(parameter.config, {})[parameter.pair] = None
    lines = []
    for path, pairs in used.items():
        suite = run.suites[path]
        models = dict.fromkeys(name.model for name in suite.pairs if name.id in pairs)
        shown = os.path.relpath(path, run.config.invocation_params.dir)
        lines.append(f"compsec: {shown}: models {', '.join(models)}; pairs {', '.join(pairs)}")
        lines.append(
            f"compsec: lock sha256 {suite.lock_digest()[:16]}…, files are verified before they are "
            f"opened; device: {visible_device()}"
        )
        lines += [f"compsec: {line}" for line in served_lines(suite.config.config, pairs)]
    return [*lines, *left_out_lines(run, items)]


def left_out_lines(run: Run, items: list[pytest.Item]) -> list[str]:
    """What ``compsec_suite`` leaves out on which pairs, and why: nobody is to believe that a check
    was made everywhere because its level was."""
    tests: dict[str, list[pytest.Function]] = {}
    for item in items:
        if CHECKS in item.stash and isinstance(item, pytest.Function) and _level_of(item):
            tests.setdefault(item.nodeid.split("[", 1)[0], []).append(item)
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for own in tests.values():
        first = own[0]
        suite = run.suite_of(first.path)
        if suite is None:
            continue
        checks = [check for check in marked_checks(first) if not isinstance(check, str)]
        given, running = overridden(first), {pair_id(item) for item in own}
        for name in suite.pairs:
            entry = suite.config.config.models[name.model]
            if name.id not in running and checks_on(checks, name, entry, given):
                continue  # -k or the like left it out
            missing = left_out(checks, name, entry, given)
            for reason in dict.fromkeys(missing.values()):
                names = ", ".join(check for check, why in missing.items() if why == reason)
                found.setdefault((_level_of(first), names, reason), {})[name.id] = None
    return [
        f"compsec: the level {level!r} leaves out {checks} on {', '.join(pairs)}: {reason}"
        for (level, checks, reason), pairs in found.items()
    ]


def _level_of(item: pytest.Function) -> str:
    """The level of the test's ``compsec_suite``; empty without one."""
    mark = item.get_closest_marker(SUITE)
    return "" if mark is None else str(mark.kwargs.get("level", DEFAULT_LEVEL))


def visible_device() -> str:
    """Where models will run unless the config says otherwise, asked of the driver, not of torch."""
    try:
        if "+cpu" in importlib.metadata.version("torch"):
            return "cpu"
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int(0)
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return "cpu"
    except (OSError, AttributeError, importlib.metadata.PackageNotFoundError):
        return "cpu"
    return f"cuda ({count.value} visible)" if count.value else "cpu"
