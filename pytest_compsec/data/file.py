"""One data file in memory: its bytes were hashed, and it is these bytes that are parsed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from pytest_compsec.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class DataFile:
    """``name`` as the config or the package calls it, ``source`` for messages and reports,
    ``suffix`` in lower case with its dot."""

    name: str
    source: str
    suffix: str
    version: str
    content: bytes = dataclasses.field(repr=False)

    @property
    def sha256(self) -> str:
        """sha256 (hex) of the bytes."""
        return hashlib.sha256(self.content).hexdigest()

    def text(self) -> str:
        """The file as UTF-8 text. Raises ConfigError with the line where it is none."""
        try:
            return self.content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = self.content.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{self.source}:{line}: is not UTF-8 text") from None

    def rows(self) -> list[tuple[int, dict[str, Any]]]:
        """The objects of a JSON Lines file (or of a JSON file that holds a list of them), each with
        its line. Raises ConfigError for anything else, and for a file without one."""
        if self.suffix == ".jsonl":
            found = [
                (line, self._parsed(text, line))
                # Not splitlines: JSON text may hold U+2028 and other separators as they are.
                for line, text in enumerate(self.text().split("\n"), start=1)
                if text.strip()
            ]
        elif self.suffix == ".json":
            whole = self._parsed(self.text(), 1)
            if not isinstance(whole, list):
                raise ConfigError(f"{self.source}:1: must be a list of objects")
            found = [(1, row) for row in whole]
        else:
            raise ConfigError(f"{self.source}:1: must be a .jsonl or .json file")
        if not found:
            raise ConfigError(f"{self.source}:1: holds no row")
        for place, (line, row) in enumerate(found):
            if not isinstance(row, dict):
                raise ConfigError(f"{self.source}:{line}: row {place} must be a JSON object")
        return found

    def _parsed(self, text: str, line: int) -> Any:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{self.source}:{line}: is not valid JSON ({error})") from None
        if "\\u" in text:
            try:
                json.dumps(found, ensure_ascii=False).encode("utf-8")
            except UnicodeEncodeError as error:
                half = f"\\u{ord(error.object[error.start]):04x}"
                raise ConfigError(
                    f"{self.source}:{line}: holds {half}, one half of a character, which no "
                    "tokenizer reads; remove it"
                ) from None
        return found


def text_of(row: dict[str, Any], key: str, source: str, line: int) -> str:
    """The text under ``key``. Raises ConfigError where it is missing, empty or no text."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{source}:{line}: needs {key!r}, a text that is not empty")
    return value


def texts_of(row: dict[str, Any], key: str, source: str, line: int) -> tuple[str, ...]:
    """The list of texts under ``key``. Raises ConfigError for an empty list or anything else."""
    value = row.get(key)
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(one, str) and one.strip() for one in value)
    ):
        raise ConfigError(f"{source}:{line}: needs {key!r}, a list of texts that are not empty")
    return tuple(value)
