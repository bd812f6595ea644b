"""An in-toto Statement v1 with a test result v0.1 for each compressed artefact of a run, signed
where a key or an identity was given.

Subjects are the weight files of the artefact as the lock pins them: never an original, never a
served model, and a derived variant only once ``compsec export`` wrote it and the lock pins it. The
first entry of ``configuration`` is the suite, and its annotations say what the predicate has no
field for. PASSED only where :mod:`pytest_compsec.reports.certificate_objections` has none; else
FAILED, never WARNED: a reader who takes a warning for a pass must not find one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_compsec.errors import CompsecError
from pytest_compsec.models.artefact_facts import WEIGHTS
from pytest_compsec.reports import json_report
from pytest_compsec.reports.certificate_configuration import suite_entry, used_entries
from pytest_compsec.reports.certificate_objections import (
    Artefact,
    artefacts_of,
    checks_of,
    objections,
    results_of,
    run_objections,
    suite_of,
)
from pytest_compsec.reports.facts import Report
from pytest_compsec.reports.kinds import CERTIFICATE
from pytest_compsec.signing.statement import ARTEFACT, FAILED, PASSED, STATEMENT_TYPE, TEST_RESULT
from pytest_compsec.verdict import CheckResult


def files(path: Path, report: Report) -> Iterator[tuple[Path, str]]:
    """The file of each artefact and its text: ``path`` for the only one, else with the pair before
    the suffix. Raises CompsecError where no artefact can have one, or signing fails."""
    made = _statements(report)
    named = _names(path, [artefact for artefact in made if not isinstance(made[artefact], str)])
    if not named:
        reasons = [f"{one.pair}: {why}" for one, why in made.items() if isinstance(why, str)]
        raise CompsecError("; ".join(reasons) or "nothing was measured of any compressed model")
    for artefact, target in named.items():
        statement = made[artefact]
        yield target, _signed(json.dumps(statement, indent=2) + "\n", report)


def remarks(path: Path, report: Report) -> list[str]:
    """What to say of the certificates beside their names: how each ended and why, which are not
    signed, which could not be made."""
    made = _statements(report)
    named = _names(path, [artefact for artefact in made if not isinstance(made[artefact], str)])
    lines = []
    for artefact, statement in made.items():
        if isinstance(statement, str):
            lines.append(f"no certificate of {artefact.pair}: {statement}")
            continue
        result = statement["predicate"]["result"]
        reasons = objections(report, artefact)
        more = f" (and {len(reasons) - 1} more reasons in it)" if len(reasons) > 1 else ""
        if result != PASSED:
            lines.append(f"{named[artefact].name} says {result}: {reasons[0]}{more}")
        if not is_signed(report):
            lines.append(
                f"{named[artefact].name} is not signed, so it proves nothing to anyone else: give "
                "--compsec-sign-key=KEY.pem"
            )
    return lines


def is_signed(report: Report) -> bool:
    """Whether certificates of this report are signed."""
    return report.sign_key is not None or report.sign_sigstore


def statement_for(report: Report, artefact: Artefact) -> dict[str, Any]:
    """The statement about one artefact, JSON-safe. Raises CompsecError with the reason where there
    are no files that it could be about."""
    results = results_of(report, artefact)
    compressed = _compressed(results)
    pinned: Sequence[Mapping[str, Any]] = compressed["files"]
    reasons = objections(report, artefact)
    whole = run_objections(report, artefact)
    checks = checks_of(report, artefact)
    failed = {one.name for one in checks if one.objections or whole}
    passed = {one.name for one in checks} - failed
    suite = suite_of(report, artefact)
    if suite is None:
        raise CompsecError(f"the digests of {artefact.config or 'its compsec.yaml'} are not known")
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_resource(file["path"], file) for file in pinned if file["role"] in WEIGHTS],
        "predicateType": TEST_RESULT,
        "predicate": {
            "result": FAILED if reasons or failed or not passed else PASSED,
            "configuration": [
                suite_entry(report, artefact, suite, results, compressed, checks, reasons),
                *used_entries(suite, results),
                {"name": "report.json", "digest": {"sha256": report_digest(report)}},
                *(
                    {
                        **_resource(f"{ARTEFACT}{file['path']}", file),
                        "annotations": {"role": file["role"]},
                    }
                    for file in pinned
                    if file["role"] not in WEIGHTS
                ),
            ],
            "passedTests": sorted(passed),
            "warnedTests": [],
            "failedTests": sorted(failed),
        },
    }


def report_digest(report: Report) -> str:
    """sha256 (hex) of the text that ``--compsec-report=FILE.json`` writes of the same run."""
    ((_, text),) = json_report.files(Path("report.json"), report)
    return hashlib.sha256(text.encode()).hexdigest()


def _resource(name: str, file: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": file["sha256"]}}


def _statements(report: Report) -> dict[Artefact, dict[str, Any] | str]:
    """The statement of each artefact, or why it can have none."""
    found: dict[Artefact, dict[str, Any] | str] = {}
    for artefact in artefacts_of(report):
        try:
            found[artefact] = statement_for(report, artefact)
        except CompsecError as error:
            found[artefact] = str(error)
    return found


def _compressed(results: Sequence[CheckResult]) -> Mapping[str, Any]:
    """What the results say of the compressed arm. Raises CompsecError."""
    arms = [
        arm
        for result in results
        if isinstance(arm := result.provenance.get("compressed"), Mapping)
        if "files" in arm
    ]
    if not arms:
        raise CompsecError("nothing was measured of it, so that no result says which files it has")
    first = arms[0]
    if any((arm["files"], arm["derived"]) != (first["files"], first["derived"]) for arm in arms):
        raise CompsecError("its results are about different files")
    if first["derived"]:
        raise CompsecError(
            "its weights are made by a recipe at every run, and are in no file that a certificate "
            "could name: write them with `compsec export`, name them as `source`, pin them with "
            "`compsec pin`, and test that variant"
        )
    if first.get("served"):
        raise CompsecError("a server answers for it, and nobody here has seen its weights")
    if not any(file["role"] in WEIGHTS for file in first["files"]):
        raise CompsecError("the lock pins no file of weights for it")
    return first


def _names(path: Path, artefacts: Sequence[Artefact]) -> dict[Artefact, Path]:
    """A file for each artefact; two suites may both have a pair of the same name."""
    if len(artefacts) == 1:
        return {artefacts[0]: path}
    stem = path.name.removesuffix(CERTIFICATE)
    pairs = [artefact.pair for artefact in artefacts]
    return {
        one: path.with_name(
            f"{stem}.{one.pair if pairs.count(one.pair) == 1 else _both(one)}{CERTIFICATE}"
        )
        for one in artefacts
    }


def _both(artefact: Artefact) -> str:
    folder = "-".join(Path(artefact.config).parent.parts) or "root"
    return f"{folder}-{artefact.pair}"


def _signed(text: str, report: Report) -> str:
    if report.sign_key is not None:
        from pytest_compsec.signing import keys
        from pytest_compsec.signing.certificates import sign_with_key

        key = keys.load_private_key(report.sign_key, keys.password_from_environment())
        return sign_with_key(text, key)
    if report.sign_sigstore:
        from pytest_compsec.signing.keyless import sign_statement

        return sign_statement(text) + "\n"
    return text
