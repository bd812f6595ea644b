"""Is this the JSON report of the run that a certificate was made in?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pytest_compsec.errors import CompsecError
from pytest_compsec.signing.statement import Statement

#: Its name in a certificate, whatever the file was called.
REPORT = "report.json"


def other_report(statement: Statement, path: Path) -> Iterator[str]:
    """How the file at ``path`` is not the report that the statement names, by sha256.

    Raises CompsecError where it cannot be read.
    """
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CompsecError(f"{path}: cannot be read ({error.strerror})") from None
    # The first entry is the suite, whatever it is called.
    named = [entry.sha256 for entry in statement.configuration[1:] if entry.name == REPORT]
    if not named:
        yield f"{path}: the certificate names no report"
    elif named != [found]:
        expected = ", ".join(str(sha256) for sha256 in named)
        yield (
            f"{path}: is not the report of the run (what --compsec-report=NAME.json wrote in it)\n"
            f"    named  sha256 {expected}\n    found  sha256 {found}"
        )
