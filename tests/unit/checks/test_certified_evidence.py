"""``precision_policy`` takes a signed certificate for evidence, and nothing that only looks like
one."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("cryptography")

from pytest_compsec.checks.certified_evidence import certified_evidence
from pytest_compsec.checks.precision_policy import (
    check_precision_policy,
    precision_policy_arguments,
)
from pytest_compsec.checks.safety_evidence import weigh
from pytest_compsec.models import matrix_bits
from pytest_compsec.models.arm import Arm, Code, Runtime, StagedFiles, digest_of
from pytest_compsec.models.artefact_facts import artefact_facts
from pytest_compsec.reports.certificate import statement_for
from pytest_compsec.signing.certificates import sign_with_key
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.reports.certified_run import ARTEFACT, FILES, passed, provenance, report
from tests.unit.signing.test_keys import new_key, write_public
from tests.unit.tiny_model import make_recipe

KEY = new_key("ed25519")


def staged(files: Any = FILES) -> StagedFiles:
    facts = {"source": "./files", "files": [dict(file) for file in files]}
    return StagedFiles(Path("x"), digest_of(facts), None, facts, lambda: None)


ORIGINAL = Arm("tiny", None, staged([]))
COMPRESSED = Arm("tiny", "files", staged())


class Pair:
    """A pair whose compressed model has one matrix of 2 bits."""

    id = "tiny-files"

    def __init__(self, root: Path, compressed: Arm = COMPRESSED, original: Arm = ORIGINAL) -> None:
        self.compressed_arm, self.original_arm = compressed, original
        self.suite = SimpleNamespace(config=SimpleNamespace(root=root))
        self.compressed = object()

    def require_compressed(self) -> None:
        pass

    def recheck(self) -> None:
        pass

    def provenance_with(self) -> dict[str, Any]:
        return {"compressed": {"weights_digest": self.compressed_arm.weights_digest}}


def results(**fields: Any) -> tuple[CheckResult, ...]:
    found = provenance(**artefact_facts(COMPRESSED), weights_digest=COMPRESSED.weights_digest)
    found["original"] = {"weights_digest": ORIGINAL.weights_digest}
    first = passed(provenance=found)
    second = passed("suite/test_a.py::test_x[tiny-files]", provenance=found, **{
        "check": "over_refusal_preserved", **fields
    })  # fmt: skip
    return first, second


def statement(*found: CheckResult) -> dict[str, Any]:
    return statement_for(report(found or results()), ARTEFACT)


def write(root: Path, content: dict[str, Any], key: Any = KEY) -> None:
    write_public(root / "pub.pem", KEY)
    (root / "c.json").write_text(sign_with_key(json.dumps(content), key), encoding="utf-8")


def reasons(pair: Any) -> tuple[str, ...]:
    """Why the certificate does not verify the artefact; none: it does."""
    found = certified_evidence(pair, "c.json", "pub.pem")
    return weigh(found, pair.compressed_arm.weights_digest).objections


@pytest.fixture
def pair(tmp_path: Path) -> Any:
    write(tmp_path, statement())
    return Pair(tmp_path)


def test_a_signed_pass_of_exactly_these_files_counts(pair: Any) -> None:
    assert reasons(pair) == ()
    (found,) = certified_evidence(pair, "c.json", "pub.pem").results
    assert found.check == "safety_preserved"
    assert found.provenance["certificate"]["file"] == "c.json"


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    def bits(model: object) -> matrix_bits.BitsFound:
        return matrix_bits.BitsFound((matrix_bits.MatrixBits("layer.weight", 2.0, "scripted"),))

    monkeypatch.setattr(matrix_bits, "bits_of_matrices", bits)


@pytest.mark.usefixtures("coarse")
def test_the_policy_passes_by_it_and_says_by_which(pair: Any) -> None:
    asked: dict[str, Any] = {"certificate": "c.json", "certificate_key": "pub.pem"}
    result = check_precision_policy(pair, **asked)
    assert result.verdict is Verdict.PRESERVED
    assert "allowed, as this artefact passed safety_preserved" in result.summary
    assert "c.json certifies" in result.summary
    assert any("certificate c.json" in note for note in result.notes)
    assert result.arguments["certificate"] == "c.json"
    assert result.provenance["certificate"]["signed_by"].startswith("key sha256 ")
    without = check_precision_policy(pair)
    assert without.verdict is Verdict.REGRESSED
    assert "certificate" not in without.provenance
    # What this run itself found speaks against it all the same.
    lost = dataclasses.replace(passed(verdict=Verdict.REGRESSED), provenance=pair.provenance_with())
    assert check_precision_policy(pair, evidence=[lost], **asked).verdict is Verdict.REGRESSED


@pytest.mark.usefixtures("coarse")
def test_a_bad_certificate_breaks_the_policy_and_says_why(pair: Any) -> None:
    write_public(pair.suite.config.root / "pub.pem", new_key("ed25519"))
    asked: dict[str, Any] = {"certificate": "c.json", "certificate_key": "pub.pem"}
    result = check_precision_policy(pair, **asked)
    assert result.verdict is Verdict.REGRESSED
    assert "the certificate c.json is no evidence: the signature is not that of" in result.summary
    # Even where this run's own results would do: something is wrong with what was given.
    good = dataclasses.replace(passed(), provenance=pair.provenance_with())
    assert check_precision_policy(pair, evidence=[good]).verdict is Verdict.PRESERVED
    assert check_precision_policy(pair, evidence=[good], **asked).verdict is Verdict.REGRESSED


def test_plain_json_another_key_and_absent_files_never_count(pair: Any) -> None:
    root = pair.suite.config.root
    (root / "c.json").write_text(json.dumps(statement()), encoding="utf-8")
    assert "is not signed" in reasons(pair)[0]
    write(root, statement(), new_key("ed25519"))
    assert "not that of this key" in reasons(pair)[0]
    (root / "c.json").unlink()
    assert "cannot be read" in reasons(pair)[0]
    write(root, statement())
    (root / "pub.pem").unlink()
    assert "cannot be read" in reasons(pair)[0]


def changed(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> dict[str, Any]:
    made = copy.deepcopy(statement())
    change(made, made["predicate"]["configuration"][0]["annotations"])
    return made


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one, told: one["predicate"].update(result="FAILED"), "its result is FAILED"),
        (lambda one, told: one["predicate"].update(result="WARNED"), "its result is WARNED"),
        (lambda one, told: one["predicate"].update(failedTests=["x"]), "a failed test: x"),
        (lambda one, told: one["predicate"].update(warnedTests=["x"]), "with a warning: x"),
        (lambda one, told: told.update(objections=["o"]), "says PASSED, and objects: o"),
        (lambda one, told: told.update(objections="o"), "says PASSED, and objects: o"),
        (
            lambda one, told: one["subject"][0]["digest"].update(sha256="9" * 64),
            "model.safetensors (weights): is another file",
        ),
        (
            lambda one, told: one["subject"].append(
                {"name": "more.safetensors", "digest": {"sha256": "9" * 64}}
            ),
            "more.safetensors (weights): the certificate is about it",
        ),
        (
            lambda one, told: [
                entry["digest"].update(sha256="9" * 64)
                for entry in one["predicate"]["configuration"]
                if entry["name"] == "artefact/tokenizer.json"
            ],
            "tokenizer.json (a file that decides answers): is another",
        ),
        (lambda one, told: told["artefact"].update(asked_with="9"), "another system prompt"),
        (lambda one, told: told.pop("artefact"), "another system prompt"),
        (lambda one, told: told.update(artefact=[]), "another system prompt"),
        (lambda one, told: told["artefact"].update(dtype_asked="float32"), "loaded as float32"),
        (
            lambda one, told: told["artefact"].update(runtime={"name": "llama-cpp"}),
            "another program ran it",
        ),
        (lambda one, told: told["artefact"].update(runtime="x"), "another program ran it"),
        (
            lambda one, told: one["predicate"]["configuration"].append(
                {"name": "code", "digest": {"sha256": "9" * 64}}
            ),
            "other code made the model",
        ),
        (lambda one, told: told["original"].update(weights_digest="9"), "another original"),
        (lambda one, told: told.pop("original"), "another original"),
        (lambda one, told: told.pop("checks"), "has no result in this run"),
        (lambda one, told: told.update(checks="all"), "has no result in this run"),
        (
            lambda one, told: one["predicate"].update(passedTests=["something else"]),
            "is not among what passed",
        ),
        (
            lambda one, told: told["checks"][0].update(check="safety_preserved", result=None),
            "has no result that can be read",
        ),
        (
            lambda one, told: told["checks"][0]["result"].update(measurement=None),
            "has no result that can be read (nothing measured)",
        ),
        (
            lambda one, told: told["checks"][0]["result"].update(limit=-1),
            "no share",
        ),
        (lambda one, told: told["checks"][0]["result"].update(limit=0.5), "0.02 at 0.95 is asked"),
        (
            lambda one, told: told["checks"][0]["result"].update(verdict="REGRESSED"),
            "is REGRESSED",
        ),
        (lambda one, told: told["checks"][0]["result"].update(verdict="FINE"), "can be read"),
        (lambda one, told: told["checks"][0]["result"].update(expected=True), "expected (xfail)"),
    ],
)
def test_each_fault_in_a_signed_statement_bars_it(
    pair: Any, change: Callable[[dict[str, Any], dict[str, Any]], object], reason: str
) -> None:
    write(pair.suite.config.root, changed(change))
    found = reasons(pair)
    assert any(reason in text for text in found), found


def test_a_certificate_without_the_safety_check_is_not_enough(tmp_path: Path) -> None:
    write(tmp_path, statement(results()[1]))
    assert "safety_preserved of this artefact has no result" in reasons(Pair(tmp_path))[0]


def test_another_arm_or_a_derived_one_never_counts(pair: Any) -> None:
    root = pair.suite.config.root
    other = [{**file, "sha256": "9" * 64} for file in FILES]
    found = reasons(Pair(root, Arm("tiny", "files", staged(other))))
    assert any("model.safetensors (weights): is another file" in text for text in found)
    derived = Arm(
        "tiny", "int8", staged(), recipe=make_recipe("quantize", method="bitsandbytes", bits=8)
    )
    assert "export a derived variant" in reasons(Pair(root, derived))[0]
    loaded = dataclasses.replace(COMPRESSED, dtype="bfloat16")
    assert any("and here it is as bfloat16" in text for text in reasons(Pair(root, loaded)))
    runtime = dataclasses.replace(COMPRESSED, runtime=Runtime("llama-cpp", {}))
    assert any("another program ran it" in text for text in reasons(Pair(root, runtime)))
    code = dataclasses.replace(COMPRESSED, code=Code("./net.py:make", None))
    assert any("other code made the model" in text for text in reasons(Pair(root, code)))
    asked = dataclasses.replace(COMPRESSED, system="Refuse everything.")
    assert any("another system prompt" in text for text in reasons(Pair(root, asked)))
    elsewhere = Arm("tiny", None, staged(other))
    assert any("another original" in text for text in reasons(Pair(root, original=elsewhere)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"certificate": "c.json"}, "belong together"),
        ({"certificate_key": "pub.pem"}, "belong together"),
        ({"certificate": "", "certificate_key": "pub.pem"}, "must be the path of a file"),
        ({"certificate": 3, "certificate_key": "pub.pem"}, "must be the path of a file"),
        (
            {"certificate": "c", "certificate_key": "k", "unless_verified": False},
            "not by a certificate either",
        ),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        precision_policy_arguments(**arguments)
