"""What we write, read by the in-toto project's own library and by that of Sigstore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.reports.certificate import files
from tests.unit.reports.certified_run import passed, report

RUNS = {
    "passed": report(),
    "failed": report((passed(answers_cached=3),), selection=("-k a",), interrupted=True),
}


def written(name: str) -> bytes:
    ((_, text),) = files(Path("out.intoto.json"), RUNS[name])
    return text.encode()


@pytest.mark.parametrize("name", RUNS)
def test_the_official_messages_take_every_field(name: str) -> None:
    json_format: Any = pytest.importorskip("google.protobuf.json_format")
    from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement

    # Parse refuses fields that the messages do not know.
    text = written(name).decode()
    statement: Any = json_format.Parse(text, statement_pb2.Statement())
    Statement.copy_from_pb(statement).validate()
    assert statement.type == "https://in-toto.io/Statement/v1"
    assert statement.predicate_type == "https://in-toto.io/attestation/test-result/v0.1"
    predicate = json.dumps(json.loads(text)["predicate"])
    result: Any = json_format.Parse(predicate, test_result_pb2.TestResult())
    assert result.result == name.upper()
    assert result.configuration
    for entry in result.configuration:
        ResourceDescriptor.copy_from_pb(entry).validate()
        assert entry.digest["sha256"], "a descriptor needs a uri, a digest or content"
    assert list(result.passed_tests or result.failed_tests)
    for fault in ("surprise", "resutl"):
        wrong = {**json.loads(predicate), fault: 1}
        with pytest.raises(json_format.ParseError):
            json_format.Parse(json.dumps(wrong), test_result_pb2.TestResult())


@pytest.mark.heavy
def test_sigstore_takes_it_for_a_statement() -> None:
    from sigstore.dsse import Statement
    from sigstore.errors import Error

    assert Statement(written("passed"))._inner.subjects[0].name == "model.safetensors"
    with pytest.raises(Error):
        Statement(written("passed").replace(b"Statement/v1", b"Statement/v9"))
