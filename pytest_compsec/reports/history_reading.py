"""Read ``compsec-history.jsonl`` and notice every edit that does not rewrite all that follows it.

Each line names the sha256 of the line before it (``previous``), and the sha256 of its own content
(``digest``): an edited, removed, inserted or moved line, and a last line that was only written in
part, end in an IntegrityError that names the line. Lines removed from the end, and a file that was
rewritten whole, leave no trace in it: what a verdict rests on is the baseline, which the lock pins.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.models.arm import digest_of

SCHEMA = "pytest-compsec/history"
SCHEMA_VERSION = 1
FILE_NAME = "compsec-history.jsonl"
#: ``previous`` of the first line.
BEGINNING = "0" * 64
_RESTORE = (
    "Restore the file from version control or a copy; or move it aside, and the next run with "
    "--compsec-history begins another"
)


@dataclasses.dataclass(frozen=True)
class Line:
    """One line: its number, the sha256 (hex) of its bytes, what it says."""

    number: int
    sha256: str
    record: Mapping[str, Any]

    @property
    def run(self) -> str:
        return str(self.record.get("run", ""))


@dataclasses.dataclass(frozen=True)
class History:
    """The whole history, its chain verified. ``size`` in bytes."""

    path: Path
    lines: tuple[Line, ...]
    size: int

    @property
    def head(self) -> str:
        """What the next line must name as the one before it."""
        return self.lines[-1].sha256 if self.lines else BEGINNING

    def runs(self, config: Path | None = None) -> tuple[Line, ...]:
        """The runs in order, of this config only (None: of all)."""
        return tuple(
            line
            for line in self.lines
            if line.record.get("kind") == "run" and self._is_of(line, config)
        )

    def accepted(self, config: Path | None = None) -> str | None:
        """The run that was accepted last."""
        for line in reversed(self.lines):
            if line.record.get("kind") == "accepted" and self._is_of(line, config):
                return line.run
        return None

    def where(self, line: Line) -> str:
        """``file:line`` for messages."""
        return f"{self.path}:{line.number}"

    def _is_of(self, line: Line, config: Path | None) -> bool:
        named = line.record.get("config")
        if config is None or not isinstance(named, str):
            return config is None
        return (self.path.parent / named).resolve() == config.resolve()


def read_history(path: Path) -> History:
    """Read and verify; a file that is not there is an empty history.

    Raises IntegrityError ``file:line: what; what to do`` for a broken chain or a damaged line,
    ConfigError for a file that cannot be read or that a later release wrote.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise ConfigError(f"{path}:1: cannot be read ({error.strerror})") from None
    return parse_history(content, path)


def parse_history(content: bytes, path: Path) -> History:
    """As :func:`read_history`, of bytes."""
    whole, _, rest = content.rpartition(b"\n")
    texts = whole.split(b"\n") if whole or content.startswith(b"\n") else []
    lines: list[Line] = []
    for number, text in enumerate(texts, start=1):
        previous = lines[-1].sha256 if lines else BEGINNING
        lines.append(_line(text, number, previous, path))
    if rest:
        raise IntegrityError(
            f"{path}:{len(texts) + 1}: the last line is not complete: a run was ended while it "
            f"wrote it ({len(rest)} bytes, no line end). Nothing is added behind it. Look at it, "
            "remove it if the run is of no use to you, and run again"
        )
    return History(path, tuple(lines), len(content))


def _line(text: bytes, number: int, previous: str, path: Path) -> Line:
    where = f"{path}:{number}"
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise IntegrityError(
            f"{where}: is not a line of JSON: it was changed. {_RESTORE}"
        ) from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise IntegrityError(f"{where}: is no line of a history of pytest-compsec. {_RESTORE}")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise ConfigError(
            f"{where}: is of version {record.get('schema_version')!r}, this release reads version "
            f"{SCHEMA_VERSION}: use the release that wrote it, or another file "
            "(--compsec-history=FILE)"
        )
    if record.get("previous") != previous:
        before = f"line {number - 1}" if number > 1 else "the beginning"
        raise IntegrityError(
            f"{where}: does not follow {before}: a line before it was changed, removed, added or "
            f"moved (it names {str(record.get('previous'))[:12]}, there is {previous[:12]}). "
            f"{_RESTORE}"
        )
    try:
        digest = content_digest(record)
    except (ValueError, RecursionError):  # NaN and the like, which no run writes
        digest = None
    if digest is None or record.get("digest") != digest:
        raise IntegrityError(f"{where}: was changed after it was written. {_RESTORE}")
    return Line(number, hashlib.sha256(text).hexdigest(), record)


def content_digest(record: Mapping[str, Any]) -> str:
    """sha256 (hex) of the canonical JSON of everything in a line but ``digest``."""
    return digest_of({key: value for key, value in record.items() if key != "digest"})
