"""Reads a JSON report again: for ``compsec show``, ``compsec diff``, and whoever checks one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_compsec import records
from pytest_compsec.errors import ConfigError
from pytest_compsec.reports.facts import RunFacts
from pytest_compsec.reports.memory import ProcessMemory
from pytest_compsec.reports.text import one_line
from pytest_compsec.verdict import SCHEMA_VERSION, CheckResult, Verdict

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA = "pytest-compsec/report"
#: Of an estimate that decides nothing it is empty.
_OF_ESTIMATES = frozenset({"", *Verdict})
_HOW = "pytest --compsec-report=FILE.json writes one"


@dataclasses.dataclass(frozen=True)
class ReadReport:
    """A JSON report. ``sha256`` (hex) is of the file's bytes; ``data`` is what stands in it, fields
    of a later version of the schema included; ``results`` are in its order. A number that was not
    finite when it was written is NaN in ``results`` and None in ``data``."""

    path: Path
    sha256: str
    data: Mapping[str, Any]
    results: tuple[CheckResult, ...]
    facts: RunFacts

    #: The peaks by process; None unless the run was asked for them.
    memory: Mapping[str, ProcessMemory] | None = None


def read_report(path: Path) -> ReadReport:
    """The report at ``path``, every field that is known checked for its type.

    Raises ConfigError for a file that cannot be read, is no JSON, no report, or a report of another
    version of the schema.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {_HOW}") from None
    data = _json(path, content)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ConfigError(f"{path}: is JSON, but no JSON report of pytest-compsec; {_HOW}")
    version = data.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ConfigError(
            f"{path}: is a report with schema_version {one_line(json.dumps(version), 40)}, and "
            f"this version of pytest-compsec reads {SCHEMA_VERSION}; use the version that wrote it"
        )
    return ReadReport(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        data=data,
        results=_results(path, data),
        facts=_facts(path, data),
        memory=_memory(path, data),
    )


def _json(path: Path, content: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise ValueError(f"{number} is too large")
        return value

    def named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # Readers differ in which of two they take: one report could say two things.
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{twice!r} stands in it twice")
        return found

    try:
        return json.loads(
            content.decode("utf-8"),
            parse_constant=refuse,
            parse_float=finite,
            object_pairs_hook=named_once,
        )
    except (ValueError, RecursionError) as error:
        reason = one_line(str(error), 120)
        raise ConfigError(f"{path}: is no JSON report ({reason}); {_HOW}") from None


def _results(path: Path, data: Mapping[str, Any]) -> tuple[CheckResult, ...]:
    # Only here: whoever reads a report has time for pydantic.
    from pytest_compsec.reports.schema.records import result_adapter

    found = data.get("results")
    if not isinstance(found, list):
        raise _damaged(path, "results", "is no list")
    adapter = result_adapter()
    results = tuple(
        CheckResult.from_json(_checked(path, f"results[{at}]", adapter, one))
        for at, one in enumerate(found)
    )
    for at, result in enumerate(results):
        for one in result.estimates:
            if one.verdict not in _OF_ESTIMATES:
                raise _damaged(path, f"results[{at}].estimates", f"a verdict {one.verdict}")
    return results


def _facts(path: Path, data: Mapping[str, Any]) -> RunFacts:
    from pytest_compsec.reports.schema.records import facts_adapter

    tool, run = data.get("tool"), data.get("run")
    if not isinstance(run, Mapping):
        raise _damaged(path, "run", "is missing")
    whole = {
        **run,
        "version": tool.get("version") if isinstance(tool, Mapping) else None,
        "created": data.get("created"),
        "integrity": data.get("integrity_failures"),
    }
    return records.rebuilt(RunFacts, _checked(path, "run", facts_adapter(), whole))


def _memory(path: Path, data: Mapping[str, Any]) -> Mapping[str, ProcessMemory] | None:
    from pydantic import TypeAdapter

    from pytest_compsec.models.memory_report import ArmPeak

    if "memory" not in data:
        return None
    memory = data["memory"]
    processes = memory.get("processes") if isinstance(memory, Mapping) else None
    if not isinstance(processes, Mapping):
        raise _damaged(path, "memory", "has no processes")
    adapter = TypeAdapter(ArmPeak)
    for name, process in processes.items():
        place = f"memory.processes.{name}"
        if not isinstance(process, Mapping) or not isinstance(process.get("arms"), list):
            raise _damaged(path, place, "has no arms")
        if not isinstance(process.get("how"), str):
            raise _damaged(path, place, "does not say how")
        for arm in process["arms"]:
            rest = _checked(path, f"{place}.arms", adapter, arm).get("rest")
            if rest is not None and not isinstance(rest, int):
                raise _damaged(path, f"{place}.arms.rest", "is no number")
    return processes


def _checked(path: Path, where: str, adapter: TypeAdapter[Any], value: Any) -> dict[str, Any]:
    """``value`` with NaN for numbers that were not finite. Raises ConfigError naming the field."""
    from pydantic import ValidationError

    text = json.dumps(value)
    try:
        adapter.validate_json(text, strict=True)
    except ValidationError as error:
        filled = json.loads(text)
        for one in error.errors():
            if not (one["type"] == "float_type" and one["input"] is None):
                place = ".".join([where, *map(str, one["loc"])])
                raise _damaged(path, place, one["msg"]) from None
            _fill(filled, one["loc"])
        value = filled
    assert isinstance(value, dict)
    return value


def _fill(value: Any, place: Sequence[int | str]) -> None:
    # Behind a name pydantic may say which member of a union it tried: that is no key.
    *outer, last = [part for part in place if not str(part).startswith(("function-", "tagged-"))]
    for part in outer:
        value = value[part]
    value[last] = math.nan


def _damaged(path: Path, place: str, what: str) -> ConfigError:
    return ConfigError(
        f"{path}: is a report, but its {one_line(place, 120)} is not as reports have it "
        f"({one_line(what, 120)}); it was edited, or cut off"
    )
