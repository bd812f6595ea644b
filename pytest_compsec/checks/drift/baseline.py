"""``compsec-baseline.json``: the outcomes of the run that was accepted, as text people can review.

Written by ``compsec accept`` only. It is an input to a verdict, so compsec.yaml names it under
``data:`` and the lock pins its bytes. One prompt a line, so that a review shows each outcome that
was accepted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_compsec.checks.drift.outcomes import REFUSING_IS_SAFE, Outcomes, outcomes_from
from pytest_compsec.errors import ConfigError

SCHEMA = "pytest-compsec/baseline"
SCHEMA_VERSION = 1
FILE_NAME = "compsec-baseline.json"
#: The entry under ``data:`` that ``no_drift`` reads when its marker names no other.
DATA_NAME = "baseline"


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The accepted outcomes. ``run`` and ``created`` (ISO 8601, UTC) name the run, ``line`` is the
    sha256 (hex) of its line in the history."""

    run: str
    created: str
    line: str
    entries: tuple[Outcomes, ...]

    @property
    def pairs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.pair for entry in self.entries))

    def of(self, pair: str, checks: Sequence[str]) -> tuple[Outcomes, ...]:
        """The entries of one pair and of these checks."""
        return tuple(one for one in self.entries if one.pair == pair and one.check in checks)


def read_baseline(text: str, source: str) -> Baseline:
    """Parse a baseline. Raises ConfigError ``source:line: what; what to do``."""
    again = "write it anew with `compsec accept`"
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{source}:{error.lineno}: is not valid JSON; {again}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}:1: is not valid JSON ({error}); {again}") from None
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        raise ConfigError(f"{source}:1: is no baseline of pytest-compsec; {again}")
    if data.get("schema_version") != SCHEMA_VERSION:
        raise ConfigError(
            f"{source}:1: is a baseline of version {data.get('schema_version')!r}, this release "
            f"reads version {SCHEMA_VERSION}; {again}"
        )
    texts = {name: data.get(name) for name in ("run", "created", "line")}
    entries = data.get("entries")
    if not all(isinstance(value, str) for value in texts.values()):
        raise ConfigError(f"{source}:1: does not name its run; {again}")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{source}:1: holds no outcomes; {again}")
    found = tuple(outcomes_from(entry, f"{source}:1") for entry in entries)
    keys = [entry.key for entry in found]
    if len(set(keys)) < len(keys):
        raise ConfigError(f"{source}:1: holds two entries of the same pair and prompts; {again}")
    return Baseline(str(texts["run"]), str(texts["created"]), str(texts["line"]), found)


def baseline_text(baseline: Baseline) -> str:
    """The file's text, in a fixed order."""
    data = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "run": baseline.run,
        "created": baseline.created,
        "line": baseline.line,
        "entries": [entry.to_json() for entry in sorted(baseline.entries, key=lambda e: e.key)],
    }
    return json.dumps(data, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def entries_of_run(record: Mapping[str, Any], where: str) -> tuple[Outcomes, ...]:
    """What a run's record in the history holds of comparable outcomes: of each pair, check and
    prompt set those with the most prompts, where several tests asked them.

    Raises ConfigError for a record of another shape.
    """
    found: dict[tuple[str, str, str], Outcomes] = {}
    for entry in _outcomes_of(record, where):
        known = found.get(entry.key)
        if known is None or entry.count > known.count:
            found[entry.key] = entry
    return tuple(found.values())


def _outcomes_of(record: Mapping[str, Any], where: str) -> Iterable[Outcomes]:
    results = record.get("results")
    if not isinstance(results, list):
        raise ConfigError(f"{where}: the run has no list of results")
    for result in results:
        parts = result.get("outcomes", []) if isinstance(result, Mapping) else None
        if not isinstance(parts, list):
            raise ConfigError(f"{where}: a result of the run is not what this release writes")
        for part in parts:
            if isinstance(part, Mapping) and part.get("check") not in REFUSING_IS_SAFE:
                continue
            shared = {key: result.get(key, {}) for key in ("pair", "provenance", "pins")}
            yield outcomes_from({**part, **shared}, where)


def beside(config: Path) -> Path:
    """Where the baseline of a config is, unless its ``data:`` says otherwise."""
    return config.with_name(FILE_NAME)
