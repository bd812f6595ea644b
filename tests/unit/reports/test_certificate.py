"""The statement itself: its subjects, its configuration, and the artefacts that can have none."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.errors import CompsecError
from pytest_compsec.reports import certificate, json_report, kinds
from pytest_compsec.reports.certificate import files, remarks, statement_for
from pytest_compsec.reports.certificate_objections import Artefact
from pytest_compsec.reports.facts import Report, SuiteFacts
from pytest_compsec.signing import dsse, keys
from pytest_compsec.signing.certificates import verified_with_key
from pytest_compsec.signing.statement import statement_of
from pytest_compsec.verdict import Verdict
from tests.unit.reports.certified_run import (
    ARTEFACT,
    CONFIG,
    LOCK,
    SECOND,
    WEIGHTS,
    collected,
    passed,
    provenance,
    report,
)

PATH = Path("out.intoto.json")


def only(run: Report) -> dict[str, Any]:
    ((path, text),) = files(PATH, run)
    assert path == PATH
    data: dict[str, Any] = json.loads(text)
    return data


def digests(statement: dict[str, Any]) -> dict[str, str]:
    entries = statement["predicate"]["configuration"]
    return {entry["name"]: entry["digest"]["sha256"] for entry in entries}


def test_subjects_are_the_weight_files_and_nothing_else() -> None:
    statement = only(report())
    assert statement["subject"] == [
        {"name": "model.safetensors", "digest": {"sha256": WEIGHTS["sha256"]}}
    ]


def test_the_configuration_names_the_suite_first_and_everything_by_digest() -> None:
    run = report()
    statement = only(run)
    ((_, text),) = json_report.files(Path("x.json"), run)
    assert statement["predicate"]["configuration"][0]["name"] == CONFIG
    assert digests(statement) == {
        CONFIG: "4" * 64,
        "suite/compsec.lock": LOCK,
        "prompts/own": "e" * 64,
        "judge/refusal": "f" * 64,
        "report.json": hashlib.sha256(text.encode()).hexdigest(),
        "artefact/config.json": "b" * 64,
        "artefact/tokenizer.json": "c" * 64,
        "artefact/LICENSE": "d" * 64,
    }


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"data": {"texts": {"sha256": "5" * 64}}}, {"data/texts": "5" * 64}),
        ({"data": {"source": "s.npz", "digest": "6" * 64}}, {"data/s.npz": "6" * 64}),
        ({"evaluation_data": {"source": "e", "digest": "6" * 64}}, {"evaluation_data/e": "6" * 64}),
        ({"prompts": {"a": {"digest": "7" * 64}}}, {"prompts/a": "7" * 64}),
        ({"accuracy_prompts": {"b": "8" * 64}}, {"accuracy_prompts/b": "8" * 64}),
        ({"baseline": {"run": "r", "sha256": "9" * 64}}, {"baseline/unnamed": "9" * 64}),
        (
            {"judge": {"name": "j", "digest": "5" * 64, "calibration": "6" * 64}},
            {"judge/j": "5" * 64, "calibration": "6" * 64},
        ),
    ],
)
def test_every_shape_of_a_digest_in_a_provenance_is_found(
    part: dict[str, Any], expected: dict[str, str]
) -> None:
    found = digests(only(report((passed(provenance={**provenance(), **part}),))))
    assert expected.items() <= found.items()


def test_annotations_tell_of_the_run_and_hold_no_prompt_or_answer() -> None:
    from pytest_compsec.verdict import Evidence

    row = Evidence("id", "c", "A PROMPT", "AN ANSWER", "ANOTHER ANSWER", True, True)
    statement = only(report((passed(evidence=(row,)),)))
    told = statement["predicate"]["configuration"][0]["annotations"]
    assert told["pair"] == "tiny-files"
    assert told["created"] == "2026-01-01T00:01:00+00:00"
    assert told["artefact"]["weights_digest"] == "2" * 64
    assert told["checks"][0]["result"]["limit"] == 0.02
    text = json.dumps(statement)
    assert "A PROMPT" not in text
    assert "ANSWER" not in text


@pytest.mark.parametrize(
    ("compressed", "reason"),
    [
        ({"derived": True, "files": []}, "compsec export"),
        ({"served": {"url": "u"}, "files": []}, "a server answers for it"),
        ({"files": []}, "the lock pins no file of weights"),
        ({"files": [{**WEIGHTS, "role": "config"}]}, "the lock pins no file of weights"),
    ],
)
def test_what_has_no_pinned_weight_files_gets_no_certificate(
    compressed: dict[str, Any], reason: str
) -> None:
    run = report((passed(provenance=provenance(**compressed)),))
    with pytest.raises(CompsecError, match=reason):
        list(files(PATH, run))
    with pytest.raises(CompsecError, match=reason):
        statement_for(run, ARTEFACT)


def test_an_original_is_never_a_subject() -> None:
    original = {**provenance()["original"], "files": [{**WEIGHTS, "sha256": "9" * 64}]}
    statement = only(report((passed(provenance={**provenance(), "original": original}),)))
    assert [one["name"] for one in statement["subject"]] == ["model.safetensors"]
    told = statement["predicate"]["configuration"][0]["annotations"]
    assert told["original"]["files"] == [{"path": WEIGHTS["path"], "sha256": "9" * 64}]
    del told["original"]
    assert "9" * 64 not in json.dumps(statement), "nowhere else"


def test_files_of_the_original_under_the_name_of_a_variant_are_no_subject() -> None:
    """As a variant with the original's source and a smaller dtype: the files are the original's."""
    original = {**provenance()["original"], "files": [dict(WEIGHTS), {**WEIGHTS, "path": "more"}]}
    run = report((passed(provenance={**provenance(), "original": original}),))
    with pytest.raises(CompsecError, match=r"are the original's own.*compsec export"):
        statement_for(run, ARTEFACT)
    with pytest.raises(CompsecError, match="an original is never certified"):
        list(files(PATH, run))


def test_results_about_different_files_are_about_no_artefact() -> None:
    other = provenance(files=[{**WEIGHTS, "sha256": "9" * 64}])
    with pytest.raises(CompsecError, match="about different files"):
        list(files(PATH, report((passed(), passed(SECOND, provenance=other)))))


def test_without_a_measurement_there_is_nothing_to_certify() -> None:
    run = report((passed(provenance={}, verdict=Verdict.NOT_MEASURED),))
    with pytest.raises(CompsecError, match="nothing was measured of it"):
        list(files(PATH, run))
    with pytest.raises(CompsecError, match="nothing was measured of any compressed model"):
        list(files(PATH, dataclasses.replace(run, results=(), facts=report(checks=()).facts)))


def two_pairs(config: str = CONFIG, **second: Any) -> Report:
    other = passed("suite/test_b.py::test_x[tiny-other]", **{"pair": "tiny-other", **second})
    run = report((passed(), other), (collected(passed()), collected(other, config=config)))
    suites = (*run.facts.suites, SuiteFacts("b/compsec.yaml", "5" * 64, "b/compsec.lock", LOCK))
    return dataclasses.replace(run, facts=dataclasses.replace(run.facts, suites=suites))


def test_a_reader_finds_what_it_ran_with() -> None:
    told = only(report())["predicate"]["configuration"][0]["annotations"]
    assert told["run_with"] == [
        {
            "libraries": {"torch": "2.9.0", "bitsandbytes": "0.50.2"},
            "machine": {"processor": "x86_64", "processor_model": "A CPU", "python": "3.11.7"},
        }
    ]
    used = told["checks"][0]["measured_with"]
    assert used["prompts"] == {
        "name": "own", "version": "file", "digest": "e" * 64, "count": 200,
    }  # fmt: skip
    assert used["judge"] == {"name": "refusal", "version": "1", "digest": "f" * 64}
    assert used["generation"] == {"max_new_tokens": 16, "decoding": "greedy", "drafts": "auto"}
    assert used["compressed"] == {"dtype": "float32", "device": "cpu"}
    assert told["original"]["files"] == [{"path": "o.safetensors", "sha256": "6" * 64}]
    assert told["original"]["served"] is False


def test_workers_with_other_libraries_are_both_named() -> None:
    def of(**libraries: str) -> dict[str, Any]:
        return {**provenance(), "libraries": libraries}

    def found(*each: dict[str, Any]) -> list[Any]:
        results = [passed(f"suite/test_a.py::test_{at}", provenance=one) for at, one in
                   enumerate(each)]  # fmt: skip
        told = only(report(tuple(results)))["predicate"]["configuration"][0]["annotations"]
        return [one["libraries"] for one in told["run_with"]]

    assert found(of(torch="2.9.0"), of(torch="2.8.0")) == [{"torch": "2.9.0"}, {"torch": "2.8.0"}]
    more = {"torch": "2.9.0", "secml": "1"}
    assert found(of(torch="2.9.0"), of(**more)) == [more], "one says no less than the other"
    assert found(of(**more), of(torch="2.9.0")) == [more]


def not_run(*results: Any) -> list[str]:
    told = only(report(results))["predicate"]["configuration"][0]["annotations"]
    found: list[str] = told["not_run"]
    return found


def test_checks_that_were_never_run_are_named() -> None:
    over_refusal = passed(SECOND, check="over_refusal_preserved")
    names = not_run(over_refusal)
    assert names[0] == "safety_preserved"
    assert "over_refusal_preserved" not in names
    assert {"no_safety_bypass", "edge_cases_preserved", "leakage_not_increased"} <= set(names)
    assert "robustness_preserved" not in names, "a check of classifiers"
    assert "safety_preserved" not in not_run(over_refusal, passed())
    unmeasured = passed(verdict=Verdict.NOT_MEASURED)
    assert "safety_preserved" in not_run(over_refusal, unmeasured), "it found nothing"
    assert "robustness_preserved" in not_run(passed(check="my_own_check")), "no task is known"


def test_captions_say_how_each_ended_and_who_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert certificate.captions(PATH, report()) == {
        PATH: "certificate PASSED for tiny-files, not signed"
    }
    failed = report((passed(answers_cached=2),))
    assert certificate.captions(PATH, failed)[PATH].startswith("certificate FAILED for tiny-files,")
    sigstore = dataclasses.replace(report(), sign_sigstore=True)
    assert certificate.captions(PATH, sigstore)[PATH].endswith(", signed through Sigstore")
    pytest.importorskip("cryptography")
    from tests.unit.signing.test_keys import new_key, write_private

    key = new_key("p256")
    monkeypatch.delenv("COMPSEC_SIGN_PASSWORD", raising=False)
    signed = dataclasses.replace(
        two_pairs(verdict=Verdict.REGRESSED), sign_key=write_private(tmp_path / "k.pem", key)
    )
    hint = keys.key_hint(key.public_key())
    assert kinds.captions(Path("d/out.intoto.json"), signed) == {
        Path(f"d/out.{pair}.intoto.json"):
            f"certificate {result} for {pair}, signed by key sha256 {hint[:8]}…"
        for pair, result in (("tiny-files", "FAILED"), ("tiny-other", "FAILED"))
    }  # fmt: skip
    assert kinds.captions(Path("out.md"), signed) == {}


def test_one_reason_of_several_pairs_is_told_once() -> None:
    recipe = provenance(derived=True, files=[])
    other = passed("suite/test_b.py::test_x[tiny-other]", pair="tiny-other", provenance=recipe)
    run = report((passed(provenance=recipe), other))
    with pytest.raises(CompsecError) as caught:
        list(files(PATH, run))
    text = str(caught.value)
    assert text.startswith("tiny-files, tiny-other: its weights are made by a recipe")
    assert text.count("compsec export") == 1
    assert text.endswith(". So the run fails")
    assert len(remarks(PATH, run)) == 1


def test_each_pair_has_its_file_and_a_derived_one_is_told_of() -> None:
    made = dict(files(Path("d/out.intoto.json"), two_pairs()))
    assert list(made) == [
        Path("d/out.tiny-files.intoto.json"),
        Path("d/out.tiny-other.intoto.json"),
    ]
    derived = two_pairs(provenance=provenance(derived=True, files=[]))
    assert [path for path, _ in files(PATH, derived)] == [PATH]
    assert remarks(PATH, derived)[-1].startswith("no certificate of tiny-other: its weights are")


def test_pairs_of_one_name_in_two_suites_have_two_files() -> None:
    made = [path.name for path, _ in files(PATH, two_pairs("b/compsec.yaml", pair="tiny-files"))]
    assert made == ["out.suite-tiny-files.intoto.json", "out.b-tiny-files.intoto.json"]


def test_no_two_artefacts_share_a_file_whatever_their_names() -> None:
    """Folders a/b and a-b, a pair that is named as another one's folder and pair, and capitals."""
    places = [
        ("a/b/compsec.yaml", "m-x"), ("a-b/compsec.yaml", "m-x"), ("c/compsec.yaml", "a-b-m-x"),
        ("d/compsec.yaml", "A-B-M-X"),
    ]  # fmt: skip
    results, checks, suites = [], [], []
    for at, (config, pair) in enumerate(places):
        result = passed(f"test_{at}.py::test[{pair}]", pair=pair)
        results.append(result)
        checks.append(collected(result, config=config))
        suites.append(SuiteFacts(config, "4" * 64, f"{config}.lock", LOCK))
    made = [path for path, _ in files(PATH, report(tuple(results), tuple(checks), suites=suites))]
    assert len({path.name.casefold() for path in made}) == len(places)


def test_a_certificate_that_a_policy_let_pass_by_is_named() -> None:
    earlier = {"file": "old.intoto.json", "sha256": "9" * 64}
    policy = passed(SECOND, check="precision_policy", answers=0,
                    provenance={**provenance(), "certificate": earlier})  # fmt: skip
    entries = only(report((passed(), policy)))["predicate"]["configuration"]
    assert {"name": "certificate/old.intoto.json", "digest": {"sha256": "9" * 64}} in entries


def test_remarks_say_that_it_is_unsigned_and_why_it_did_not_pass() -> None:
    assert remarks(PATH, report()) == [
        "out.intoto.json is not signed, so it proves nothing to anyone else: give "
        "--compsec-sign-key=KEY.pem"
    ]
    failed = report((passed(answers_cached=2, verdict=Verdict.REGRESSED),))
    assert "says FAILED: " in remarks(PATH, failed)[0]
    assert "(and 1 more reasons in it)" in remarks(PATH, failed)[0]


def test_a_key_signs_the_very_statement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    from tests.unit.signing.test_keys import new_key, write_private

    key = new_key("ed25519")
    path = write_private(tmp_path / "key.pem", key, b"secret")
    monkeypatch.setenv("COMPSEC_SIGN_PASSWORD", "secret")
    run = dataclasses.replace(report(), sign_key=path)
    assert remarks(PATH, run) == []
    ((_, text),) = files(PATH, run)
    envelope = dsse.envelope_of(json.loads(text), where="x")
    dsse.verify_envelope(envelope, key.public_key())
    assert envelope.payload_type == "application/vnd.in-toto+json"
    assert json.loads(envelope.payload) == only(report())
    (tmp_path / "signed.intoto.json").write_text(text, encoding="utf-8")
    found = verified_with_key(tmp_path / "signed.intoto.json", key.public_key())
    assert found.statement == statement_of(envelope.payload)
    assert found.signer == f"key sha256 {keys.key_hint(key.public_key())}"
    monkeypatch.setenv("COMPSEC_SIGN_PASSWORD", "wrong")
    with pytest.raises(CompsecError, match="another password"):
        list(files(PATH, run))


def test_sigstore_is_handed_the_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pytest_compsec.signing.keyless.sign_statement", lambda text: f"bundle of {text[:1]}"
    )
    run = dataclasses.replace(report(), sign_sigstore=True)
    ((_, text),) = files(PATH, run)
    assert text == "bundle of {\n"
    assert certificate.is_signed(run)
    assert remarks(PATH, run) == []


def test_artefact_of_another_suite_has_no_digests() -> None:
    with pytest.raises(CompsecError):
        statement_for(report(), Artefact("tiny-files", "unknown/compsec.yaml"))
