"""In-toto Statements v1 that say how tests of an artefact ended: read, strictly, from signed bytes.

Statement: github.com/in-toto/attestation, spec/v1/statement.md; predicate: spec/predicates/
test-result.md (https://in-toto.io/attestation/test-result/v0.1). Fields that they do not know are
ignored, as their parsing rules ask; what we say beyond them is in ``annotations`` of the first
entry of ``configuration``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_compsec.errors import CompsecError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
PASSED, WARNED, FAILED = "PASSED", "WARNED", "FAILED"
#: Files of the artefact beside its weights, among the entries of ``configuration``.
ARTEFACT = "artefact/"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class CertificateRefused(CompsecError):
    """A certificate does not say, or does not prove, what is asked of it; the message says why."""


@dataclasses.dataclass(frozen=True)
class Resource:
    """A ResourceDescriptor: ``sha256`` in hex, None where it has another digest or none."""

    name: str
    sha256: str | None
    annotations: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Statement:
    """What was tested, how it ended and under which configuration (the suite comes first)."""

    subjects: tuple[Resource, ...]
    result: str
    configuration: tuple[Resource, ...]
    passed: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def suite(self) -> str:
        """The compsec.yaml, as it was named."""
        return self.configuration[0].name

    @property
    def told(self) -> Mapping[str, Any]:
        """What we say beyond the predicate; empty in a statement of another tool."""
        return self.configuration[0].annotations

    @property
    def artefact_files(self) -> dict[str, str | None]:
        """sha256 by name of the files beside the weights."""
        return {
            entry.name.removeprefix(ARTEFACT): entry.sha256
            for entry in self.configuration
            if entry.name.startswith(ARTEFACT)
        }


def statement_of(payload: bytes) -> Statement:
    """The statement in these bytes. Raises CertificateRefused for anything that is not a test
    result about subjects with a sha256 each."""
    data = json_object(payload, "the signed statement")
    if data.get("_type") != STATEMENT_TYPE:
        raise CertificateRefused(f"is no in-toto Statement v1 (its _type is {data.get('_type')!r})")
    if data.get("predicateType") != TEST_RESULT:
        raise CertificateRefused(
            f"its predicate {data.get('predicateType')!r} is unknown; {TEST_RESULT} is asked"
        )
    predicate = _object(data.get("predicate"), "predicate")
    result = predicate.get("result")
    if result not in (PASSED, WARNED, FAILED):
        raise CertificateRefused(f"its result {result!r} is none of PASSED, WARNED, FAILED")
    subjects = _resources(data.get("subject"), "subject")
    for subject in subjects:
        if subject.sha256 is None or not subject.name:
            raise CertificateRefused("names a subject without a name or a sha256")
    if len({subject.name for subject in subjects}) != len(subjects):
        raise CertificateRefused("names a subject twice")
    return Statement(
        subjects,
        result,
        _resources(predicate.get("configuration"), "configuration"),
        _texts(predicate, "passedTests"),
        _texts(predicate, "warnedTests"),
        _texts(predicate, "failedTests"),
    )


def json_object(content: bytes | str, what: str) -> Mapping[str, Any]:
    """A JSON object, of bytes in UTF-8. Raises CertificateRefused, also where a key occurs twice:
    two readers might take it for two different things, as they might bytes of no known encoding."""
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        data = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CertificateRefused(f"{what} is no JSON ({error})") from None
    return _object(data, what)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise CertificateRefused(f"{what} is no JSON object")
    return value


def _resources(value: object, what: str) -> tuple[Resource, ...]:
    if not isinstance(value, list) or not value:
        raise CertificateRefused(f"{what} is no list, or an empty one")
    return tuple(_resource(_object(entry, f"an entry of {what}"), what) for entry in value)


def _resource(entry: Mapping[str, Any], what: str) -> Resource:
    name, digests = entry.get("name", ""), _object(entry.get("digest", {}), f"a digest in {what}")
    sha256 = digests.get("sha256")
    if not isinstance(name, str):
        raise CertificateRefused(f"a name in {what} is no text")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise CertificateRefused(f"the sha256 of {name!r} in {what} is not 64 hexadecimal digits")
    return Resource(name, sha256, _object(entry.get("annotations", {}), f"annotations in {what}"))


def _texts(predicate: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found: Sequence[object] = predicate.get(key, ())
    if not isinstance(found, (list, tuple)) or not all(isinstance(one, str) for one in found):
        raise CertificateRefused(f"{key} is no list of names")
    return tuple(str(one) for one in found)
