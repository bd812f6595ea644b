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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_compsec.errors import CompsecError
from pytest_compsec.models.arm import digest_of
from pytest_compsec.models.artefact_facts import WEIGHTS, weights_in
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

#: Digits of a key's sha256 in the terminal; ``compsec verify-certificate`` shows all.
_HINT = 8


def files(path: Path, report: Report) -> Iterator[tuple[Path, str]]:
    """The file of each artefact and its text: ``path`` for the only one, else with the pair before
    the suffix. Raises CompsecError where no artefact can have one, or signing fails."""
    made = _statements(report)
    named = _names(path, list(_whole(made)))
    if not named:
        reasons = list(_refusals(made)) or ["nothing was measured of any compressed model"]
        raise CompsecError(f"{'; '.join(reasons)}. So the run fails")
    for artefact, target in named.items():
        statement = made[artefact]
        yield target, _signed(json.dumps(statement, indent=2) + "\n", report)


def captions(path: Path, report: Report) -> dict[Path, str]:
    """Beside the name of each file: how its certificate ended, of what, and who signed it."""
    made = _whole(_statements(report))
    if report.sign_key is not None:
        from pytest_compsec.signing import keys

        key = keys.load_private_key(report.sign_key, keys.password_from_environment())
        signed = f"signed by key sha256 {keys.key_hint(key.public_key())[:_HINT]}…"
    else:
        signed = "signed through Sigstore" if report.sign_sigstore else "not signed"
    return {
        target: f"certificate {made[artefact]['predicate']['result']} for {artefact.pair}, {signed}"
        for artefact, target in _names(path, list(made)).items()
    }


def remarks(path: Path, report: Report) -> list[str]:
    """What to say of the certificates beside their names: how each ended and why, which are not
    signed, which could not be made."""
    made = _statements(report)
    whole = _whole(made)
    named = _names(path, list(whole))
    lines = []
    for artefact, statement in whole.items():
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
    return [*lines, *(f"no certificate of {text}" for text in _refusals(made))]


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


def _whole(made: Mapping[Artefact, dict[str, Any] | str]) -> dict[Artefact, dict[str, Any]]:
    return {one: found for one, found in made.items() if not isinstance(found, str)}


def _refusals(made: Mapping[Artefact, dict[str, Any] | str]) -> Iterator[str]:
    """Each reason once, after the pairs that it is true of."""
    pairs: dict[str, list[str]] = {}
    for artefact, why in made.items():
        if isinstance(why, str):
            pairs.setdefault(why, []).append(artefact.pair)
    for why, names in pairs.items():
        yield f"{', '.join(dict.fromkeys(names))}: {why}"


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
    own = weights_in(first)
    if not own:
        raise CompsecError("the lock pins no file of weights for it")
    if any(own <= weights_in(result.provenance.get("original")) for result in results):
        raise CompsecError(
            "its files of weights are the original's own, which is made smaller only when it is "
            "loaded (dtype), and an original is never certified: derive the variant with a recipe "
            "(`quantize: {method: cast}`), write it with `compsec export`, and test those files"
        )
    return first


def _names(path: Path, artefacts: Sequence[Artefact]) -> dict[Artefact, Path]:
    """A file for each artefact, and none for two: suites may have pairs of the same name, folders
    ``a/b`` and ``a-b``, and not every disk tells capitals apart."""
    if len(artefacts) == 1:
        return {artefacts[0]: path}
    stem = path.name.removesuffix(CERTIFICATE)
    names = {one: one.pair for one in artefacts}
    for longer in (_with_folder, _with_digest):
        times = Counter(name.casefold() for name in names.values())
        names = {
            one: name if times[name.casefold()] == 1 else longer(one) for one, name in names.items()
        }
    return {one: path.with_name(f"{stem}.{name}{CERTIFICATE}") for one, name in names.items()}


def _with_folder(artefact: Artefact) -> str:
    folder = "-".join(Path(artefact.config).parent.parts) or "root"
    return f"{folder}-{artefact.pair}"


def _with_digest(artefact: Artefact) -> str:
    return f"{_with_folder(artefact)}-{digest_of([artefact.config, artefact.pair])[:12]}"


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
