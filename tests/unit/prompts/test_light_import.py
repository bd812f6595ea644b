"""Prompts load without the heavy libraries."""

from __future__ import annotations

import subprocess
import sys


def test_no_heavy_import() -> None:
    code = (
        "import sys; from pytest_compsec.prompts import load_builtin; load_builtin('harmful'); "
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
