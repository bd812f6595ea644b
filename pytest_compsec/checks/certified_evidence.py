"""A signed certificate of an earlier run as evidence that an artefact passed its safety checks.

It counts only where the signature is that of the key that the test names, its result is PASSED, and
its files are exactly those that the lock pins for the compressed arm: the weights, and beside them
whatever decides answers; and it was loaded, run and asked in the same way. The key is the anchor of
trust: review a change of it as one of the lock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_compsec.checks.safety_evidence import (
    CERTIFICATE,
    REQUIRED,
    SAFETY_CHECKS,
    SafetyEvidence,
)
from pytest_compsec.errors import CompsecError
from pytest_compsec.verdict import CheckResult, Measurement, Verdict

if TYPE_CHECKING:
    from pytest_compsec.models.arm import Arm
    from pytest_compsec.models.pair import ModelPair
    from pytest_compsec.signing.certificates import Certificate


def certified_evidence(pair: ModelPair, certificate: str, key: str) -> SafetyEvidence:
    """The results of safety checks in ``certificate``; where it proves nothing about this pair's
    compressed model, the reason. Both are paths from the directory of the config."""
    from pytest_compsec.signing.certificates import verified_with_key
    from pytest_compsec.signing.keys import load_public_key

    root = pair.suite.config.root
    arm = pair.compressed_arm
    try:
        found = verified_with_key(root / certificate, load_public_key(root / key))
        reasons = list(_objections(found, arm, pair.original_arm))
        results = tuple(_results(found, arm, certificate)) if not reasons else ()
    except CompsecError as error:
        reasons, results = [str(error)], ()
    return SafetyEvidence(
        results, tuple(f"the certificate {certificate} is no evidence: {one}" for one in reasons)
    )


def _objections(certificate: Certificate, arm: Arm, original: Arm) -> Iterator[str]:
    from pytest_compsec.models.artefact_facts import artefact_facts
    from pytest_compsec.signing.comparing import differences
    from pytest_compsec.signing.passing import not_passed

    statement = certificate.statement
    refused = list(not_passed(statement))
    if refused:
        yield from refused
        return
    own = artefact_facts(arm)
    if own["derived"] or not own["files"]:
        yield (
            f"{arm.name} has no files that it could be about: export a derived variant "
            "(`compsec export`) and pin it"
        )
        return
    yield from differences(statement, own["files"])
    found = statement.told.get("artefact")
    told = found if isinstance(found, Mapping) else {}
    if told.get("asked_with") != own["asked_with"]:
        yield "the model was asked with another system prompt, or other arguments of its template"
    if told.get("dtype_asked") != arm.dtype:
        yield (
            f"it was loaded as {told.get('dtype_asked') or 'its files say'}, and here it is as "
            f"{arm.dtype or 'its files say'} (dtype)"
        )
    runs = told.get("runtime")
    if (runs.get("name") if isinstance(runs, Mapping) else runs) != (
        arm.runtime.name if arm.runtime is not None else None
    ):
        yield "another program ran it (runtime)"
    code = {entry.sha256 for entry in statement.configuration if entry.name == "code"}
    if code != ({own["code"]} if own["code"] is not None else set()):
        yield "other code made the model of its weights"
    before = statement.told.get("original")
    if not isinstance(before, Mapping) or before.get("weights_digest") != original.weights_digest:
        yield f"it was compared with another original than {original.name}"


def _results(certificate: Certificate, arm: Arm, name: str) -> Iterator[CheckResult]:
    """The results that the certificate lists among what passed, as if of this arm: its files were
    compared. Raises CompsecError for a list that is none of ours."""
    statement = certificate.statement
    listed = statement.told.get("checks")
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, Mapping) or entry.get("check") not in SAFETY_CHECKS:
            continue
        result = _result(entry)
        if entry.get("name") not in statement.passed or result.check != entry["check"]:
            raise CompsecError(f"{entry.get('name')!r} is not among what passed")
        yield dataclasses.replace(
            result,
            provenance={
                "compressed": {"weights_digest": arm.weights_digest},
                CERTIFICATE: {
                    "file": name,
                    "sha256": certificate.sha256,
                    "signed_by": certificate.signer,
                    "created": statement.told.get("created"),
                },
            },
        )


def _result(entry: Mapping[str, Any]) -> CheckResult:
    data = entry.get("result")
    try:
        if not isinstance(data, Mapping):
            raise TypeError("no result")
        found = CheckResult.from_json(data)
        if not isinstance(found.verdict, Verdict):
            raise TypeError("no verdict")
        numbers = [found.limit, found.confidence]
        if found.check == REQUIRED:
            if not isinstance(found.measurement, Measurement):
                raise TypeError("nothing measured")
            numbers.append(found.measurement.original_rate)
        if not all(isinstance(one, (int, float)) and 0 <= one <= 1 for one in numbers):
            raise TypeError("a limit, confidence or rate that is no share")
        if not isinstance(found.arguments, Mapping):
            raise TypeError("no arguments")
    except (TypeError, ValueError, KeyError) as error:
        raise CompsecError(
            f"{entry.get('name')!r} has no result that can be read ({error})"
        ) from None
    return found
