"""TOML tables to :class:`~pytest_compsec.models.lock.Lock`, every field checked.

The names in a lock become paths in the staging directory, so they are checked like input from
outside: relative, without ``..``, without control characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, TypeVar

from pytest_compsec.errors import ConfigError
from pytest_compsec.models.arm import TEXT_GENERATION, Recipe, Runtime
from pytest_compsec.models.lock import (
    LOCK_VERSION,
    ArmPin,
    BackdoorPin,
    CalibrationPin,
    CodePin,
    DataPin,
    FilePin,
    JudgePin,
    Lock,
    ModelPin,
    PromptPin,
    SettingsPin,
    SourcePin,
    TensorsPin,
)
from pytest_compsec.models.oms.pin import SignaturePin
from pytest_compsec.models.roles import ROLES
from pytest_compsec.models.served.pin import EndpointPin

_SHA256 = re.compile(r"[0-9a-f]{64}")
T = TypeVar("T")


class _Table:
    """A TOML table that knows where it stands, so that every complaint can say so."""

    def __init__(self, file: str, where: str, value: Any) -> None:
        self.file = file
        self.where = where
        if not isinstance(value, Mapping):
            raise self.error("must be a table")
        self.values = value

    def error(self, message: str) -> ConfigError:
        where = f"{self.where}: " if self.where else ""
        return ConfigError(
            f"{self.file}:1: {where}{message}. The lock is written by `compsec pin` only: restore "
            "it from version control, or delete it, pin anew and review it"
        )

    def allow(self, *keys: str) -> None:
        unknown = sorted(set(self.values) - set(keys))
        if unknown:
            raise self.error(f"unknown key {unknown[0]!r}")

    def optional(self, key: str, kind: type[T]) -> T | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(f"{key!r} must be a {kind.__name__}")
        return value

    def get(self, key: str, kind: type[T]) -> T:
        value = self.optional(key, kind)
        if value is None:
            raise self.error(f"the key {key!r} is missing")
        return value

    def sha256(self, key: str) -> str:
        value = self.get(key, str)
        if _SHA256.fullmatch(value) is None:
            raise self.error(f"{key!r} is no sha256 (64 hexadecimal digits, lower case)")
        return value

    def table(self, key: str) -> _Table:
        where = f"{self.where}.{key}" if self.where else key
        if key not in self.values:
            raise self.error(f"the table {key!r} is missing")
        return _Table(self.file, where, self.values[key])

    def tables(self, key: str) -> dict[str, _Table]:
        inner = self.table(key)
        return {name: inner.table(name) for name in inner.values}


def parse_lock(values: Mapping[str, Any], file: str) -> Lock:
    """The lock that TOML ``values`` describe. Raises ConfigError naming the table at fault."""
    top = _Table(file, "", values)
    version = top.get("version", int)
    if version != LOCK_VERSION:
        raise ConfigError(
            f"{file}:1: has version {version}; this release reads version {LOCK_VERSION}. "
            + (
                "Upgrade pytest-compsec (`pip install -U pytest-compsec`)"
                if version > LOCK_VERSION
                else "Write it anew with `compsec pin`"
            )
        )
    top.allow("version", "judges", "calibration", "prompts", "data", "tensors", "models")
    return Lock(
        models={name: _model(table) for name, table in top.tables("models").items()},
        prompts={
            name: PromptPin(table.get("version", str), table.sha256("digest"), _count(table))
            for name, table in top.tables("prompts").items()
        },
        judges={name: _judge(table) for name, table in top.tables("judges").items()},
        calibration=(
            _calibration(top.table("calibration")) if "calibration" in top.values else None
        ),
        data={name: _data(table) for name, table in _data_tables(top)},
        tensors=_tensors(top.table("tensors")) if "tensors" in top.values else None,
    )


def _data_tables(top: _Table) -> list[tuple[str, _Table]]:
    return list(top.tables("data").items()) if "data" in top.values else []


def _data(table: _Table) -> DataPin:
    table.allow("version", "sha256", "size")
    return DataPin(table.get("version", str), table.sha256("sha256"), _size(table))


def _tensors(table: _Table) -> TensorsPin:
    table.allow("file", "sha256", "size")
    name = table.get("file", str)
    if not name.isprintable() or "/" in name or "\\" in name or name in ("", ".", ".."):
        raise table.error(f"{name!r} is no name of a file beside the lock")
    return TensorsPin(name, table.sha256("sha256"), _size(table))


def _judge(table: _Table) -> JudgePin:
    table.allow("version", "digest", "note", "tools", "files")
    return JudgePin(
        version=table.get("version", str),
        digest=table.sha256("digest"),
        files=_source(table.table("files")) if "files" in table.values else None,
        tools=_tools(table) if "tools" in table.values else {},
        note=table.optional("note", str),
    )


def _calibration(table: _Table) -> CalibrationPin:
    table.allow("file", "sha256", "size")
    return CalibrationPin(table.get("file", str), table.sha256("sha256"), _size(table))


def _count(table: _Table) -> int:
    return table.get("count", int)


def _model(table: _Table) -> ModelPin:
    table.allow("task", "settings", "evaluation_data", "backdoor", "original", "variants")
    original = _arm(table.table("original"))
    if original.recipe is not None:
        raise table.error("the original needs files or an endpoint of its own")
    return ModelPin(
        settings=_settings(table.table("settings")),
        original=original,
        variants={name: _arm(arm) for name, arm in table.tables("variants").items()},
        task=table.optional("task", str) or TEXT_GENERATION,
        evaluation_data=_optional_source(table, "evaluation_data"),
        backdoor=_backdoor(table.table("backdoor")) if "backdoor" in table.values else None,
    )


def _backdoor(table: _Table) -> BackdoorPin:
    table.allow("settings", "files", "code")
    return BackdoorPin(
        settings=table.get("settings", str),
        files=_optional_source(table, "files"),
        code=_code(table.table("code")) if "code" in table.values else None,
    )


def _code(table: _Table) -> CodePin:
    table.allow("source", "tools", "files")
    pin = CodePin(
        source=table.get("source", str),
        files=_optional_source(table, "files"),
        tools=_tools(table) if "tools" in table.values else {},
    )
    if pin.files is None and not pin.tools:
        raise table.error("needs 'files' or 'tools'")
    if pin.files is not None and pin.files.source != pin.source:
        raise table.error(f"its files are those of {pin.files.source!r}, not of {pin.source!r}")
    for file in pin.files.files if pin.files is not None else ():
        if not file.name.endswith(".py"):
            raise table.error(f"{file.name!r} is no Python file")
    return pin


def _optional_source(table: _Table, key: str) -> SourcePin | None:
    return _source(table.table(key)) if key in table.values else None


def _settings(table: _Table) -> SettingsPin:
    table.allow("max_new_tokens", "system", "chat_template_kwargs")
    try:
        kwargs = json.loads(table.get("chat_template_kwargs", str))
    except ValueError:
        kwargs = None
    if not isinstance(kwargs, dict):
        raise table.error("'chat_template_kwargs' must be the text of a JSON object")
    return SettingsPin(
        max_new_tokens=table.get("max_new_tokens", int),
        system=table.optional("system", str),
        chat_template_kwargs=kwargs,
    )


def _arm(table: _Table) -> ArmPin:
    table.allow(
        "dtype", "files", "adapter", "recipe", "runtime", "code", "data", "endpoint", "signature"
    )
    arm = ArmPin(
        dtype=table.get("dtype", str),
        files=_optional_source(table, "files"),
        adapter=_optional_source(table, "adapter"),
        recipe=_recipe(table.table("recipe")) if "recipe" in table.values else None,
        runtime=_runtime(table.table("runtime")) if "runtime" in table.values else None,
        code=_code(table.table("code")) if "code" in table.values else None,
        data=_optional_source(table, "data"),
        endpoint=_endpoint(table.table("endpoint")) if "endpoint" in table.values else None,
        signature=_signature(table.table("signature")) if "signature" in table.values else None,
    )
    if sum(part is not None for part in (arm.files, arm.recipe, arm.endpoint)) != 1:
        raise table.error("needs either 'files' or 'recipe' or 'endpoint'")
    if arm.endpoint is not None and len(table.values) != 2:
        raise table.error("has an 'endpoint', beside which nothing but 'dtype' may stand")
    if arm.runtime is not None and arm.recipe is not None:
        raise table.error("has a recipe, which no other runtime can run")
    if arm.signature is not None and arm.files is None:
        raise table.error("has a 'signature' and no 'files' that it could cover")
    if arm.code is not None and (arm.files is None or len(arm.files.files) != 1):
        raise table.error("has 'code', so that its 'files' are one file of weights")
    return arm


def _endpoint(table: _Table) -> EndpointPin:
    table.allow("url", "model", "revision", "seed", "facts")
    facts = table.table("facts")
    return EndpointPin(
        url=table.get("url", str),
        model=table.get("model", str),
        revision=table.optional("revision", str),
        seed=table.optional("seed", int),
        facts={name: facts.get(name, str) for name in facts.values},
    )


def _signature(table: _Table) -> SignaturePin:
    table.allow("method", "sha256", "size", "file", "trusted", "identity", "issuer")
    trusted = table.table("trusted") if "trusted" in table.values else None
    pin = SignaturePin(
        method=table.get("method", str),
        sha256=table.sha256("sha256"),
        size=_size(table),
        file=table.optional("file", str) or "",
        trusted={} if trusted is None else {name: trusted.sha256(name) for name in trusted.values},
        identity=table.optional("identity", str),
        issuer=table.optional("issuer", str),
    )
    named = {
        "key": len(pin.trusted) == 1,
        "certificates": len(pin.trusted) >= 1,
        "sigstore": pin.identity is not None and pin.issuer is not None,
    }
    if not named.get(pin.method, False):
        raise table.error(f"does not say who is trusted by the method {pin.method!r}")
    return pin


def _recipe(table: _Table) -> Recipe:
    table.allow("section", "method", "options", "tools", "inputs", "found")
    inputs = table.table("inputs") if "inputs" in table.values else None
    return Recipe(
        section=table.get("section", str),
        method=table.get("method", str),
        options=dict(table.table("options").values),
        tools=_tools(table),
        inputs={} if inputs is None else {key: inputs.sha256(key) for key in inputs.values},
        found=_found(table.table("found")) if "found" in table.values else {},
    )


def _found(table: _Table) -> dict[str, Any]:
    table.allow("keep_in_full_precision", "basis")
    names = table.get("keep_in_full_precision", list)
    if not all(isinstance(name, str) and name for name in names):
        raise table.error("'keep_in_full_precision' must be a list of layer names")
    return {"keep_in_full_precision": list(names), "basis": table.sha256("basis")}


def _runtime(table: _Table) -> Runtime:
    table.allow("name", "tools")
    return Runtime(name=table.get("name", str), tools=_tools(table))


def _tools(table: _Table) -> dict[str, str]:
    tools = table.table("tools")
    return {name: tools.get(name, str) for name in tools.values}


def _source(table: _Table) -> SourcePin:
    table.allow("source", "revision", "commit", "entry", "tree", "file")
    files = table.get("file", list)
    pin = SourcePin(
        source=table.get("source", str),
        files=tuple(
            _file(_Table(table.file, f"{table.where}.file[{index}]", file))
            for index, file in enumerate(files)
        ),
        revision=table.optional("revision", str),
        commit=table.optional("commit", str),
        entry=table.optional("entry", str),
    )
    names = [file.name for file in pin.files]
    if not names:
        raise table.error("lists no file")
    if len(set(names)) != len(names):
        raise table.error("lists a file twice")
    if pin.entry is not None and pin.entry not in names:
        raise table.error(f"the entry {pin.entry!r} is not among its files")
    if table.sha256("tree") != pin.tree:
        raise table.error("'tree' does not fit the files listed: the lock was edited")
    return pin


def _file(table: _Table) -> FilePin:
    table.allow("name", "sha256", "size", "role", "provenance")
    name = table.get("name", str)
    path = PurePosixPath(name)
    if (
        not name.isprintable()
        or "\\" in name
        or path.is_absolute()
        or ".." in path.parts
        or path.as_posix() != name
        or name in ("", ".")
    ):
        raise table.error(f"the name {name!r} is no plain relative path")
    role = next((role for role in ROLES if role == table.get("role", str)), None)
    if role is None:
        raise table.error(f"the role {table.get('role', str)!r} is none of {', '.join(ROLES)}")
    return FilePin(name, table.sha256("sha256"), _size(table), role, table.get("provenance", str))


def _size(table: _Table) -> int:
    size = table.get("size", int)
    if size < 0:
        raise table.error("'size' is negative")
    return size
