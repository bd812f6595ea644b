"""What a run says after collection, when it has compsec tests: models, pairs, device, lock."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
from typing import TYPE_CHECKING

import pytest

from pytest_compsec.collection import pair_parameter
from pytest_compsec.models.served.wording import header_lines as served_lines
from pytest_compsec.run import CHECKS, PairParameter, Run

if TYPE_CHECKING:
    from pathlib import Path


def header_lines(run: Run, items: list[pytest.Item]) -> list[str]:
    """One line per suite in use, and one for the device. Loads no torch."""
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
    return lines


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
