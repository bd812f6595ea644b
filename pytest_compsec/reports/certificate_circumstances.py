"""What a reader with nothing but a certificate asks next: with which libraries, machine, settings,
prompts and judge was it measured, against which files, and which checks were never run?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_compsec.models.artefact_facts import WEIGHTS
from pytest_compsec.reports.certificate_objections import Checked
from pytest_compsec.verdict import CheckResult, Verdict

#: Of each check, and of them what is no text of a prompt or an answer.
_OF_A_CHECK: Mapping[str, tuple[str, ...]] = {
    "prompts": ("name", "version", "digest", "count"),
    "judge": ("name", "version", "digest", "calibration"),
    "generation": ("max_new_tokens", "decoding", "drafts"),
}
_PLACED = ("dtype", "dtype_asked", "device", "runtime")


def measured_with(result: CheckResult | None) -> dict[str, Any]:
    """Prompts, judge and generation settings of one result, and how both arms were loaded; nothing
    of what its check did not use."""
    provenance = result.provenance if result is not None else {}
    found: dict[str, Any] = {}
    for part, keys in _OF_A_CHECK.items():
        entry = provenance.get(part)
        if isinstance(entry, Mapping):
            kept = {key: entry[key] for key in keys if entry.get(key) is not None}
            if kept:
                found[part] = kept
    for part in ("original", "compressed"):
        arm = provenance.get(part)
        if isinstance(arm, Mapping):
            found[part] = {key: arm[key] for key in _PLACED if arm.get(key) is not None}
    return found


def run_with(results: Sequence[CheckResult]) -> list[dict[str, Any]]:
    """Libraries (those installed) and machine of the results: one entry where all agree, more where
    workers had others."""
    found: list[dict[str, Any]] = []
    for result in results:
        entry = {part: _present(result.provenance.get(part)) for part in ("libraries", "machine")}
        entry = {part: value for part, value in entry.items() if value}
        # A check that names fewer libraries says nothing else than one that names more.
        if entry and not any(_within(entry, other) for other in found):
            found = [other for other in found if not _within(other, entry)]
            found.append(entry)
    return found


def original_files(original: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The original's pinned files of weights, by sha256; none where a server answered for it."""
    files = original.get("files")
    return [
        {"path": file["path"], "sha256": file["sha256"]}
        for file in (files if isinstance(files, (list, tuple)) else ())
        if file["role"] in WEIGHTS
    ]


def not_run(checks: Sequence[Checked]) -> list[str]:
    """The checks of this package that could have been made of this kind of model, and found nothing
    because they were not. One that ended NOT_MEASURED found nothing either."""
    from pytest_compsec.markers import MARKERS

    ran = {
        one.check
        for one in checks
        if one.result is not None and one.result.verdict is not Verdict.NOT_MEASURED
    }
    tasks = _common(MARKERS[name].tasks for name in sorted(ran) if name in MARKERS)
    return [
        name
        for name, marker in MARKERS.items()
        if name not in ran and (not tasks or tasks & set(marker.tasks))
    ]


def _common(tasks: Iterator[tuple[str, ...]]) -> set[str]:
    """What the model does, by the tasks of the checks that ran on it; empty where none tells."""
    found = [set(one) for one in tasks]
    return set.intersection(*found) if found else set()


def _present(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {}
    return {key: one for key, one in value.items() if one not in (None, [], ())}


def _within(entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(
        other.get(part, {}).get(key) == one
        for part, value in entry.items()
        for key, one in value.items()
    )
