"""JSON files read strictly: every complaint says in which file and where, and what to do."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pytest_compsec.errors import ConfigError

_SHA256 = re.compile(r"[0-9a-f]{64}")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class JsonObject:
    """A JSON object that knows where it stands, so that every complaint can say so."""

    file: str
    where: str
    remedy: str
    values: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str, file: str, schema: str, version: int, remedy: str) -> JsonObject:
        """The outermost object of ``text``, its ``schema`` and ``version`` checked. Raises
        ConfigError."""
        try:
            value = json.loads(text, object_pairs_hook=_without_doubles)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{file}:{error.lineno}: not valid JSON ({error.msg}). {remedy}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{file}:1: not valid JSON ({error}). {remedy}") from None
        if not isinstance(value, dict) or value.get("schema") != schema:
            raise ConfigError(f"{file}:1: is no {schema} file. {remedy}")
        top = cls(file, "", remedy, value)
        found = top.get("version", int)
        if found != version:
            later = "upgrade pytest-compsec, or " if found > version else ""
            raise top.error(f"has version {found}, this release reads {version}: {later}do this")
        return top

    def error(self, message: str) -> ConfigError:
        """The error for something wrong in this object."""
        where = f"{self.where}: " if self.where else ""
        return ConfigError(f"{self.file}:1: {where}{message}. {self.remedy}")

    def allow(self, *keys: str) -> None:
        """Raises ConfigError for any other key."""
        unknown = sorted(set(self.values) - set(keys))
        if unknown:
            raise self.error(f"unknown key {unknown[0]!r}")

    def get(self, key: str, kind: type[T]) -> T:
        """The value of ``key``, of exactly this type. Raises ConfigError."""
        if key not in self.values:
            raise self.error(f"the key {key!r} is missing")
        value = self.values[key]
        # exactly: to isinstance, true is a whole number
        if type(value) is not kind:
            raise self.error(f"{key!r} must be {_JSON_NAMES[kind]}")
        result: T = value
        return result

    def sha256(self, key: str) -> str:
        """A digest of 64 lower-case hexadecimal digits. Raises ConfigError."""
        value = self.get(key, str)
        if _SHA256.fullmatch(value) is None:
            raise self.error(f"{key!r} is no sha256 (64 hexadecimal digits, lower case)")
        return value

    def object(self, key: str) -> JsonObject:
        """The object under ``key``. Raises ConfigError."""
        return self._inner(key, self.get(key, dict))

    def objects(self, key: str) -> list[JsonObject]:
        """The objects of the list under ``key``. Raises ConfigError."""
        items = self.get(key, list)
        return [self._inner(f"{key}[{index}]", item) for index, item in enumerate(items)]

    def _inner(self, key: str, value: Any) -> JsonObject:
        where = f"{self.where}.{key}" if self.where else key
        if not isinstance(value, dict):
            raise dataclasses.replace(self, where=where).error("must be an object")
        return JsonObject(self.file, where, self.remedy, value)


_JSON_NAMES: Mapping[type[Any], str] = {
    str: "text",
    int: "a whole number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the key {twice[0]!r} is given twice")
    return values


def read_text(path: Path) -> str:
    """The UTF-8 text of the file at ``path``. Raises ConfigError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}:1: is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
