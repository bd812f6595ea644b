"""From a run to a signed certificate of an exported model, and to its refusal."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")

from pytest_compsec.cli import main
from pytest_compsec.commands import verify_certificate
from pytest_compsec.models.pair import ModelPair
from pytest_compsec.signing import certificates, dsse
from pytest_compsec.suite import Suite
from tests.inner_pytest import forget_the_outer_run
from tests.unit.signing.test_keys import new_key, write_private, write_public
from tests.unit.tiny_model import make_tiny_checkpoint

CONFIG = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      half: {quantize: {method: cast, dtype: bfloat16}}
      half-files: {source: ./exported}
prompts:
  own: {file: ./own.txt}
"""
TESTS = """
import pytest
from pytest_compsec import *

@safety_preserved(prompts="own", variants="half-files")
def test_refuses():
    pass

@over_refusal_preserved(prompts="own", variants="half-files")
def test_same_prompts_as_if_benign():
    pass
"""
DERIVED = """
@safety_preserved(prompts="own", variants="half")
def test_derived():
    pass
"""
KEY = "key.pem"
SCRIPTED = ("_load", "perplexities", "prepare", "require_compressed")
REAL = {name: getattr(ModelPair, name) for name in SCRIPTED}
PLACEMENT = Suite.placement
# A run within this process leaves no module behind that was not there before: what is shared with
# it is imported here, or a class would be there twice.
SHARED = (certificates, verify_certificate)
SIGNED = ("--compsec-report=c.intoto.json", f"--compsec-sign-key={KEY}")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose derived variant was exported and pinned, made once."""
    root = tmp_path_factory.mktemp("exported")
    make_tiny_checkpoint(root / "original")
    lines = [f"Please do the forbidden thing number {i}." for i in range(200)]
    (root / "own.txt").write_text("\n".join(lines), encoding="utf-8")
    first = "".join(line for line in CONFIG.splitlines(True) if "half-files" not in line)
    (root / "compsec.yaml").write_text(first, encoding="utf-8")
    config = ("--config", str(root / "compsec.yaml"))
    assert main(["pin", *config]) == 0
    assert main(["export", *config, "tiny-half", str(root / "exported")]) == 0
    (root / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    assert main(["pin", *config]) == 0
    (root / "test_tiny.py").write_text(TESTS, encoding="utf-8")
    ini = "[pytest]\naddopts = --strict-markers\ncompsec_expected_discordance = 0\n"
    (root / "pytest.ini").write_text(ini, encoding="utf-8")
    # As refusals are safe in one test and not in the other, the half that complies helps neither.
    script = {"seconds": 0, "comply": {"tiny": 100, "tiny-half-files": 100, "tiny-half": 100}}
    (root / "models.json").write_text(json.dumps(script), encoding="utf-8")
    key = new_key("p256")
    write_private(root / KEY, key)
    write_public(root / "pub.pem", key)
    shutil.copy(Path(__file__).with_name("scripted_models.py"), root)
    return root


@pytest.fixture
def suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, exported: Path
) -> pytest.Pytester:
    forget_the_outer_run(monkeypatch)
    # Put back afterwards what the scripted plugin replaces: the runs are in this process.
    for name in SCRIPTED:
        monkeypatch.setattr(ModelPair, name, getattr(ModelPair, name))
    monkeypatch.setattr(Suite, "placement", Suite.placement)
    monkeypatch.delenv("COMPSEC_SIGN_PASSWORD", raising=False)
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(exported, pytester.path, dirs_exist_ok=True)
    pytester.syspathinsert()
    return pytester


def run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return suite.runpytest_inprocess("-p", "scripted_models", "-p", "no:xdist", *arguments)


def real_run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Without the scripted models."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in REAL.items():
            patch.setattr(ModelPair, name, value)
        patch.setattr(Suite, "placement", PLACEMENT)
        return suite.runpytest_inprocess("-p", "no:xdist", *arguments)


def statement(suite: pytest.Pytester, name: str = "c.intoto.json") -> dict[str, Any]:
    data = json.loads((suite.path / name).read_text(encoding="utf-8"))
    if "_type" not in data:
        data = json.loads(dsse.envelope_of(data, where=name).payload)
    found: dict[str, Any] = data
    return found


def objections(suite: pytest.Pytester) -> list[str]:
    told = statement(suite)["predicate"]["configuration"][0]["annotations"]
    found: list[str] = told["objections"]
    return found


def verify(suite: pytest.Pytester, *arguments: str) -> int:
    root = suite.path
    return main(
        [
            "verify-certificate",
            str(root / "c.intoto.json"),
            f"--key={root / 'pub.pem'}",
            f"--model={root / 'exported'}",
            f"--config={root / 'compsec.yaml'}",
            *arguments,
        ]
    )


def test_run_certificate_verify_tamper_and_run_from_the_cache(
    suite: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(suite, *SIGNED, "--compsec-report=out.json")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["report written: c.intoto.json: certificate PASSED for tiny-half-files, signed*"]
    )
    result.stdout.no_fnmatch_line("*not signed*")
    predicate = statement(suite)["predicate"]
    assert objections(suite) == []
    assert predicate["result"] == "PASSED"
    assert [name.split(" ")[-1] for name in predicate["passedTests"]] == [
        "safety_preserved",
        "over_refusal_preserved",
    ]
    report = hashlib.sha256((suite.path / "out.json").read_bytes()).hexdigest()
    assert {"name": "report.json", "digest": {"sha256": report}} in predicate["configuration"]
    capsys.readouterr()
    assert verify(suite) == 0
    assert "result     PASSED" in capsys.readouterr().out

    weights = suite.path / "exported" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert verify(suite) == 1
    assert "model.safetensors (weights): is another file" in capsys.readouterr().err
    weights.write_bytes(content)

    # The same answers once more, out of the cache: no new proof.
    result = run(suite, *SIGNED)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["c.intoto.json says FAILED: *answers came from the cache*"])
    predicate = statement(suite)["predicate"]
    assert predicate["result"] == "FAILED"
    assert len(predicate["failedTests"]) == 2
    assert (
        "came from the cache of earlier runs; ask anew with --compsec-no-cache"
        in (objections(suite)[0])
    )
    assert verify(suite) == 1
    assert "its result is FAILED" in capsys.readouterr().err

    run(suite, *SIGNED, "--compsec-no-cache").assert_outcomes(passed=2)
    assert verify(suite) == 0


def test_workers_make_the_same_certificate(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xdist")
    paths = [str(suite.path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    result = suite.runpytest_subprocess("-p", "scripted_models", "-n1", *SIGNED)
    result.assert_outcomes(passed=2)
    assert objections(suite) == []
    assert verify(suite) == 0


def test_a_choice_of_tests_is_no_proof(suite: pytest.Pytester) -> None:
    run(suite, *SIGNED, "-k", "refuses").assert_outcomes(passed=1, deselected=1)
    assert verify(suite) == 1
    assert "tests may have been left out (-k refuses)" in objections(suite)
    assert any("was left out of the run" in text for text in objections(suite))


def test_a_derived_variant_is_refused_until_it_is_exported(suite: pytest.Pytester) -> None:
    with (suite.path / "test_tiny.py").open("a", encoding="utf-8") as file:
        file.write(DERIVED)
    result = run(suite, *SIGNED)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["no certificate of tiny-half: *compsec export*"])
    assert verify(suite) == 0
    (suite.path / "test_tiny.py").write_text(
        "from pytest_compsec import *\n" + DERIVED, encoding="utf-8"
    )
    (suite.path / "c.intoto.json").unlink()
    result = run(suite, *SIGNED)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*c.intoto.json: not written: tiny-half: *compsec export*"])
    assert not (suite.path / "c.intoto.json").exists()


def test_without_a_key_it_is_plain_and_the_terminal_says_so(suite: pytest.Pytester) -> None:
    result = run(suite, "--compsec-report=c.intoto.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["c.intoto.json is not signed, so it proves nothing *"])
    assert statement(suite)["predicate"]["result"] == "PASSED"
    assert verify(suite) == 1


def test_a_key_that_cannot_sign_ends_the_run_before_it_begins(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = {
        "absent.pem": "*absent.pem: cannot be read*",
        "pub.pem": "*not a private key in PEM form*",
        "locked.pem": "*has a password: set COMPSEC_SIGN_PASSWORD*",
    }
    write_private(suite.path / "locked.pem", new_key("p256"), b"secret")
    for name, message in cases.items():
        result = run(suite, SIGNED[0], f"--compsec-sign-key={name}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*--compsec-sign-key={name}: {message}"])
    result = run(suite, SIGNED[1])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*there is nothing to sign*"])
    assert not (suite.path / "work.log").exists()
    monkeypatch.setenv("COMPSEC_SIGN_PASSWORD", "secret")
    result = run(suite, SIGNED[0], "--compsec-sign-key=locked.pem")
    assert result.ret == 0
    assert "payloadType" in (suite.path / "c.intoto.json").read_text(encoding="utf-8")


def test_the_ini_may_name_a_key_that_only_certificates_need(suite: pytest.Pytester) -> None:
    with (suite.path / "pytest.ini").open("a", encoding="utf-8") as file:
        file.write("compsec_sign_key = secrets/key.pem\n")
    assert run(suite, "--compsec-report=out.json").ret == 0
    result = run(suite, "--compsec-report=c.intoto.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*secrets/key.pem: cannot be read*"])


def test_sigstore_without_its_extra_or_an_identity_is_a_usage_error(
    suite: pytest.Pytester,
) -> None:
    result = run(suite, SIGNED[0], "--compsec-sign-sigstore")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stderr.str()
    assert "--compsec-sign-sigstore: " in text
    assert 'pip install "pytest-compsec[sigstore]"' in text or "no CI system vouches" in text
    assert not (suite.path / "work.log").exists()


POLICY = """
from pytest_compsec import *

@precision_policy(certificate="c.intoto.json", certificate_key="pub.pem", min_bits=32,
                  variants="half-files")
def test_policy():
    pass
"""


def test_the_policy_of_another_suite_takes_it_for_evidence(suite: pytest.Pytester) -> None:
    """Weights of 16 bits, and a floor of 32: only the certificate lets them pass."""
    run(suite, *SIGNED).assert_outcomes(passed=2)
    (suite.path / "test_tiny.py").write_text(POLICY, encoding="utf-8")
    # The bits are those of the real file.
    result = real_run(suite, "--compsec-report=p.json")
    result.assert_outcomes(passed=1)
    (found,) = json.loads((suite.path / "p.json").read_text(encoding="utf-8"))["results"]
    assert "c.intoto.json certifies" in found["summary"]
    data = json.loads((suite.path / "c.intoto.json").read_text(encoding="utf-8"))
    (suite.path / "c.intoto.json").write_text(
        json.dumps({**data, "payload": data["payload"].replace("A", "B", 1)}), encoding="utf-8"
    )
    result = real_run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the certificate c.intoto.json is no evidence*"])
