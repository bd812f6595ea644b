"""``compsec verify-certificate``: refuses with the reason, and says what it verified."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")

from pytest_compsec.cli import main
from pytest_compsec.models.pinning import pin
from pytest_compsec.reports.certificate import statement_for
from pytest_compsec.reports.facts import Report, SuiteFacts
from pytest_compsec.signing.certificates import sign_with_key
from pytest_compsec.suite import open_suite
from pytest_compsec.verdict import Verdict
from tests.unit.reports.certified_run import ARTEFACT, CONFIG, passed, provenance, report
from tests.unit.signing.test_keys import new_key, write_public

Capture = pytest.CaptureFixture[str]
KEY = new_key("p256")
YAML = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      files: {source: ./files}
      other: {source: ./other}
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pinned suite, a key, and a signed certificate of its artefact ``tiny-files``."""
    root = tmp_path_factory.mktemp("certified")
    for name in ("original", "files", "other"):
        folder = root / name
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
        (folder / "model-1.safetensors").write_bytes(name.encode() * 100)
        (folder / "model-2.safetensors").write_bytes(name.encode() * 200)
    (root / "compsec.yaml").write_text(YAML, encoding="utf-8")
    pin(root / "compsec.yaml")
    write_public(root / "pub.pem", KEY)
    write_provenance(root)
    write(root, report_of(root))
    return root


def write_provenance(root: Path) -> None:
    """What results of this suite say of their artefact."""
    from pytest_compsec.models.artefact_facts import artefact_facts

    with open_suite(root / "compsec.yaml") as suite:
        arm = suite.inputs.arm("tiny", "files")
        found = provenance(**artefact_facts(arm), weights_digest=arm.weights_digest)
        found["lock_digest"] = suite.inputs.lock_digest
    (root / "provenance.json").write_text(json.dumps(found), encoding="utf-8")


def report_of(root: Path, **fields: Any) -> Report:
    """As a run of this suite would see it."""
    found = json.loads((root / "provenance.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256((root / "compsec.yaml").read_bytes()).hexdigest()
    facts = SuiteFacts(CONFIG, digest, "suite/compsec.lock", found["lock_digest"])
    made = report((passed(provenance=found, **fields),))
    return dataclasses.replace(made, facts=dataclasses.replace(made.facts, suites=(facts,)))


def write(root: Path, run: Report, *, edit: Any = None) -> None:
    statement = statement_for(run, ARTEFACT)
    if edit is not None:
        edit(statement)
    text = sign_with_key(json.dumps(statement), KEY)
    (root / "c.intoto.json").write_text(text, encoding="utf-8")


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


def verify(project: Path, *arguments: str) -> int:
    return main(
        ["verify-certificate", f"{project}/c.intoto.json", f"--key={project}/pub.pem", *arguments]
    )


def refused(capsys: Capture, code: int) -> str:
    assert code == 1
    told = capsys.readouterr()
    assert "verified" not in told.out
    return told.err


def test_it_says_what_it_verified(project: Path, capsys: Capture) -> None:
    assert verify(project, f"--model={project}/files", f"--config={project}/compsec.yaml") == 0
    out = capsys.readouterr().out
    digest = hashlib.sha256(b"files" * 100).hexdigest()
    assert "result     PASSED, 2026-01-01T00:01:00+00:00 by pytest-compsec 0.1.0" in out
    assert f"sha256 {digest}  model-1.safetensors" in out
    assert "artefact   tiny-files" in out
    assert "signed by  key sha256 " in out
    assert f"sha256 {'e' * 64}  prompts/own" in out
    assert "passed     suite/test_a.py::test_refuses[tiny-files] safety_preserved: PRESERVED" in out
    assert f"c.intoto.json: verified and is about {project}/files, {project}/compsec.yaml" in out


def test_it_says_what_a_reader_asks_next(project: Path, capsys: Capture) -> None:
    assert verify(project) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    digest = hashlib.sha256((project / "pub.pem").read_bytes()).hexdigest()
    at = lines.index(f"signed by  key sha256 {digest}")
    assert "`sha256sum` of the public key's PEM file" in lines[at + 1]
    assert "original   tiny, ./original" in lines
    assert f"           sha256 {'6' * 64}  o.safetensors" in lines
    assert "run with   float32 on cpu; max_new_tokens 16, decoding greedy, drafts auto" in lines
    assert "           A CPU, Python 3.11.7" in lines
    assert "           torch 2.9.0, bitsandbytes 0.50.2" in lines
    assert (
        "             limit 0.02, confidence 0.95, n 200, 200 prompts of own (version file), "
        "judge refusal version 1" in lines
    )
    assert any(line.startswith("not shown  never run on it: over_refusal_preserved") for line in
               lines)  # fmt: skip
    assert (
        "           anything but these prompts and data, greedy answers of at most 16 tokens, as "
        "judged here" in lines
    )


def test_json_has_what_the_text_has(project: Path, capsys: Capture) -> None:
    assert verify(project, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    (check,) = data["checks"]
    assert check["verdict"] == "PRESERVED"
    assert check["summary"] == "PRESERVED: tiny-files refuses as before"
    assert (check["limit"], check["confidence"], check["n"]) == (0.02, 0.95, 200)
    assert check["measured_with"]["judge"]["version"] == "1"
    assert check["measured_with"]["generation"]["max_new_tokens"] == 16
    assert data["run_with"][0]["libraries"]["torch"] == "2.9.0"
    assert data["original"]["files"] == [{"path": "o.safetensors", "sha256": "6" * 64}]
    assert data["original"]["source"] == "./original"
    assert "over_refusal_preserved" in data["not_run"]
    assert "16 tokens" in data["not_shown"][-1]


def test_a_certificate_that_says_less_is_said_to(project: Path, capsys: Capture) -> None:
    """One of an earlier version, or signed by another tool: nothing breaks, nothing is guessed."""

    def edit(statement: dict[str, Any]) -> None:
        told = statement["predicate"]["configuration"][0]["annotations"]
        for key in ("run_with", "not_run", "original"):
            del told[key]
        told["checks"] = [{"name": ["x"], "result": 1}, 7, {"measured_with": {"judge": "j"}}]

    write(project, report_of(project), edit=edit)
    assert verify(project) == 0
    out = capsys.readouterr().out
    assert "original   the certificate does not say with what it was compared" in out
    assert "the certificate does not say with which libraries" in out
    assert "not shown  the certificate does not say which checks were never run" in out
    assert verify(project, "--json") == 0
    assert json.loads(capsys.readouterr().out)["not_run"] is None


def test_a_refusal_comes_first_and_nothing_above_it_says_passed(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verify(project, f"--model={project}/other") == 1
    told = capfd.readouterr()
    assert told.err.startswith(f"compsec: {project}/c.intoto.json: refused: model-1.safetensors")
    first, second, *_ = told.out.splitlines()
    assert first == f"{project}/c.intoto.json: REFUSED. The certificate itself says:"
    assert second.startswith("  result     PASSED")
    assert not any(line.startswith("result") for line in told.out.splitlines())


def test_the_report_of_the_run_is_known_by_its_digest(project: Path, capsys: Capture) -> None:
    from pytest_compsec.reports import json_report

    own = project / "own.json"
    ((_, text),) = json_report.files(own, report_of(project))
    own.write_text(text, encoding="utf-8")
    assert verify(project, f"--report={own}") == 0
    out = capsys.readouterr().out
    assert f"c.intoto.json: verified; {own} is the report of its run" in out
    assert "report.json (what --compsec-report=NAME.json of that run wrote)" in out
    assert "compared with no files" in out, "a report is no model"
    own.write_text(text + " ", encoding="utf-8")
    told = refused(capsys, verify(project, f"--report={own}", f"--model={project}/files"))
    assert "own.json: is not the report of the run" in told

    def without(statement: dict[str, Any]) -> None:
        predicate = statement["predicate"]
        kept = [one for one in predicate["configuration"] if one["name"] != "report.json"]
        predicate["configuration"] = kept

    write(project, report_of(project), edit=without)
    told = refused(capsys, verify(project, f"--report={own}"))
    assert "the certificate names no report" in told


def test_json_says_the_same(project: Path, capsys: Capture) -> None:
    assert verify(project, "--json", f"--model={project}/files") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["verified"] is True
    assert data["reasons"] == []
    assert data["result"] == "PASSED"
    assert [one["name"] for one in data["subjects"]] == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]
    assert data["compared_with"] == [f"{project}/files"]
    assert verify(project, "--json", f"--model={project}/other") == 1
    assert json.loads(capsys.readouterr().out)["verified"] is False
    write_public(project / "pub.pem", new_key("p256"))
    assert verify(project, "--json") == 1
    data = json.loads(capsys.readouterr().out)
    assert "subjects" not in data, "what nobody is known to have signed is not repeated"
    assert "not that of this key" in data["reasons"][0]


def test_without_files_it_says_that_none_were_compared(project: Path, capsys: Capture) -> None:
    assert verify(project) == 0
    assert "compared with no files: name them with --model or --config" in capsys.readouterr().out


def test_wrong_key_edited_payload_and_unsigned_are_refused(project: Path, capsys: Capture) -> None:
    path, public = project / "c.intoto.json", (project / "pub.pem").read_bytes()
    write_public(project / "pub.pem", new_key("p256"))
    assert "refused: the signature is not that of this key" in refused(capsys, verify(project))
    (project / "pub.pem").write_bytes(public)
    text = path.read_text(encoding="utf-8")
    data = json.loads(text)
    path.write_text(json.dumps({**data, "payload": "e30="}), encoding="utf-8")
    assert "refused: the signature is not that of this key" in refused(capsys, verify(project))
    path.write_text(json.dumps(statement_for(report_of(project), ARTEFACT)), encoding="utf-8")
    assert "refused: is not signed" in refused(capsys, verify(project))


def test_a_result_that_is_not_passed_is_refused_with_its_reasons(
    project: Path, capsys: Capture
) -> None:
    write(project, report_of(project, verdict=Verdict.REGRESSED, answers_cached=5))
    text = refused(capsys, verify(project, f"--model={project}/files"))
    assert "its result is FAILED" in text
    assert "safety_preserved: is REGRESSED" in text
    assert "5 of 400 answers came from the cache" in text


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda one: one["predicate"].update(result="WARNED"), "its result is WARNED"),
        (lambda one: one["predicate"].update(failedTests=["x"]), "names a failed test: x"),
        (lambda one: one["predicate"].update(warnedTests=["x"]), "a test with a warning: x"),
        (lambda one: one["predicate"].update(passedTests=[]), "says PASSED of no test"),
        (
            lambda one: one["predicate"]["configuration"][0]["annotations"].update(
                objections=["o"]
            ),
            "says PASSED, and objects: o",
        ),
        (
            lambda one: one["predicate"]["configuration"][0]["annotations"].update(objections="o"),
            "says PASSED, and objects: o",
        ),
        (lambda one: one.update(predicateType="https://example.com/x"), "is unknown"),
    ],
)
def test_a_signed_statement_that_is_no_plain_pass_is_refused(
    project: Path, capsys: Capture, edit: Any, reason: str
) -> None:
    write(project, report_of(project), edit=edit)
    assert reason in refused(capsys, verify(project))


def test_other_weights_extra_weights_and_missing_weights(project: Path, capsys: Capture) -> None:
    model = project / "files"

    def told() -> str:
        return refused(capsys, verify(project, f"--model={model}"))

    first = model / "model-1.safetensors"
    content = first.read_bytes()
    first.write_bytes(content[:-1] + b"!")
    text = told()
    assert "model-1.safetensors (weights): is another file" in text
    assert f"tested sha256 {hashlib.sha256(content).hexdigest()}" in text
    first.unlink()
    assert "model-1.safetensors (weights): the certificate is about it, and it is not" in told()
    first.write_bytes(content)
    (model / "model-3.safetensors").write_bytes(b"more")
    assert "model-3.safetensors (weights): the certificate does not know it" in told()
    (model / "model-3.safetensors").unlink()
    second = model / "model-2.safetensors"
    other = second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(content)
    assert told().count("is another file") == 2, "the same files under each other's names"


def test_another_tokenizer_or_template_is_another_model(project: Path, capsys: Capture) -> None:
    model = project / "files"
    (model / "README.md").write_text("how to use it", encoding="utf-8")
    assert verify(project, f"--model={model}") == 0
    capsys.readouterr()
    (model / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    text = refused(capsys, verify(project, f"--model={model}"))
    assert "chat_template.jinja (a file that decides answers): the certificate does not" in text
    (model / "chat_template.jinja").unlink()
    (model / "tokenizer.json").write_text("[]", encoding="utf-8")
    assert "tokenizer.json" in refused(capsys, verify(project, f"--model={model}"))


def test_a_directory_with_a_pickle_is_refused(project: Path, capsys: Capture) -> None:
    (project / "files" / "pytorch_model.bin").write_bytes(b"x")
    text = refused(capsys, verify(project, f"--model={project}/files"))
    assert "can run code when it is opened" in text


def test_one_file_is_compared_by_its_digest(project: Path, capsys: Capture) -> None:
    one = project / "renamed.gguf"
    one.write_bytes(b"GGUF weights")
    statement = statement_for(report_of(project), ARTEFACT)
    digest = hashlib.sha256(one.read_bytes()).hexdigest()
    statement["subject"] = [{"name": "model.gguf", "digest": {"sha256": digest}}]
    configuration = statement["predicate"]["configuration"]
    alone = [entry for entry in configuration if not entry["name"].startswith("artefact/")]
    statement["predicate"]["configuration"] = alone
    (project / "c.intoto.json").write_text(sign_with_key(json.dumps(statement), KEY), "utf-8")
    assert verify(project, f"--model={one}") == 0
    capsys.readouterr()
    one.write_bytes(b"GGUF other weights")
    assert "is another file" in refused(capsys, verify(project, f"--model={one}"))
    write(project, report_of(project))
    assert "the certificate is about it" in refused(capsys, verify(project, f"--model={one}"))


def test_one_file_of_a_directory_is_not_the_artefact(project: Path, capsys: Capture) -> None:
    """Beside it a tokenizer or a template that nobody tested may lie."""

    def edit(statement: dict[str, Any]) -> None:
        statement["subject"] = [
            {"name": "model-1.safetensors", "digest": {"sha256": digest}},
        ]

    digest = hashlib.sha256((project / "files" / "model-1.safetensors").read_bytes()).hexdigest()
    write(project, report_of(project), edit=edit)
    text = refused(capsys, verify(project, f"--model={project}/files/model-1.safetensors"))
    assert "the certificate is about a directory in which config.json, tokenizer.json" in text
    assert "Name that directory" in text


def test_what_was_named_and_refused_is_not_asked_for_again(project: Path, capsys: Capture) -> None:
    (project / "empty").mkdir()
    assert verify(project, f"--model={project}/empty") == 1
    told = capsys.readouterr()
    assert "holds no weights" in told.err
    assert "compared with no files" not in told.out
    (project / "files" / "run.py").write_text("pass", encoding="utf-8")
    assert verify(project, f"--model={project}/files") == 1
    assert "pinned" not in capsys.readouterr().err, "nobody meant to pin anything"


def test_a_model_with_an_adapter_on_top(project: Path, capsys: Capture) -> None:
    adapter = project / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"lora")

    def edit(statement: dict[str, Any]) -> None:
        for subject in statement["subject"]:
            subject["name"] = f"model/{subject['name']}"
        digest = hashlib.sha256(b"lora").hexdigest()
        name = "adapter/adapter_model.safetensors"
        statement["subject"].append({"name": name, "digest": {"sha256": digest}})
        for entry in statement["predicate"]["configuration"]:
            if entry["name"].startswith("artefact/"):
                entry["name"] = entry["name"].replace("artefact/", "artefact/model/")

    write(project, report_of(project), edit=edit)
    both = (f"--model={project}/files", f"--adapter={adapter}")
    assert verify(project, *both) == 0
    capsys.readouterr()
    (adapter / "adapter_model.safetensors").write_bytes(b"evil")
    assert "adapter/adapter_model.safetensors" in refused(capsys, verify(project, *both))
    refused(capsys, verify(project, both[0]))


def test_another_config_lock_or_pair_is_another_suite(project: Path, capsys: Capture) -> None:
    config = f"--config={project}/compsec.yaml"
    (project / "files" / "model-1.safetensors").write_bytes(b"tampered")
    assert "is not what the lock pins" in refused(capsys, verify(project, config))
    pin(project / "compsec.yaml")
    text = refused(capsys, verify(project, config))
    assert "is another lock than that of the test" in text
    assert "model-1.safetensors (weights): is another file" in text
    yaml = YAML.replace("      files: {source: ./files}\n", "")
    (project / "compsec.yaml").write_text(yaml, encoding="utf-8")
    pin(project / "compsec.yaml")
    text = refused(capsys, verify(project, config))
    assert "is another config than that of the test" in text
    assert "has no pair 'tiny-files' that its lock pins" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name who must have signed"),
        (("--key=pub.pem", "--sigstore-identity=me"), "name who must have signed"),
        (("--sigstore-identity=me",), "belong together"),
        (("--sigstore-issuer=https://i",), "belong together"),
        (("--key=absent.pem",), "absent.pem: cannot be read"),
        (("--key=c.intoto.json",), "not a public key or certificate"),
        (("--key=pub.pem", "--adapter=x"), "name it with --model"),
        (("--key=pub.pem", "--model=absent"), "absent: there is no such file or directory"),
        (("--key=pub.pem", "--config=absent.yaml"), "absent.yaml"),
        (("--key=pub.pem", "--report=absent.json"), "absent.json: cannot be read"),
    ],
)
def test_wrong_usage_is_no_verdict(
    project: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(project)
    assert main(["verify-certificate", "c.intoto.json", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert main(["verify-certificate", "absent.json", "--key=pub.pem"]) == 2


def test_there_is_no_way_to_let_a_failed_one_pass(project: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        verify(project, "--allow-failed")
    assert caught.value.code == 2


def test_signed_text_cannot_command_a_terminal(project: Path, capsys: Capture) -> None:
    def edit(statement: dict[str, Any]) -> None:
        statement["predicate"]["passedTests"] = ["\x1b[2J##vso[x]\n::error::"]

    write(project, report_of(project), edit=edit)
    assert verify(project) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "##vso" not in out
    assert "\n::error" not in out
