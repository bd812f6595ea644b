"""A run verifies the signature that the config asks for, and says which tensor was changed."""

from __future__ import annotations

import sys

import pytest

from pytest_compsec.models.oms.signing import sign_model
from tests.plugin.conftest import CONFIG, Project
from tests.unit.models.oms.signers import private_pem, public_pem
from tests.unit.models.tiny_files import safetensors

GOOD = "@safety_preserved(prompts='own', variants='good')\ndef test_good(model_pair): pass\n"
SIGNED = CONFIG.replace("source: ./original", "source: ./original, signature: {key: ./key.pub}")


@pytest.mark.parametrize("mode", ["n2"])
def test_a_signed_model_is_measured_and_one_with_another_key_is_not(project: Project) -> None:
    (project.path / "key.pem").write_bytes(private_pem())
    (project.path / "key.pub").write_bytes(public_pem())
    (project.path / "compsec.yaml").write_text(SIGNED, encoding="utf-8")
    sign_model(project.path / "original", project.path / "key.pem")
    project.pin()
    project.test_file(f"@pytest.mark.xfail\n{GOOD}")
    project.run().assert_outcomes(xpassed=1)

    (project.path / "key.pub").write_bytes(public_pem("stranger"))
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = result.stdout.str()
    assert "INTEGRITY:" in text
    assert "./key.pub (trusted to sign ./original): is not what the lock pins" in text


@pytest.mark.parametrize("mode", ["n0"])
def test_the_tensor_that_was_changed_is_named(project: Project) -> None:
    weights = project.path / "original" / "model.safetensors"
    for name in ("original", "good", "bad"):
        (project.path / name / "model.safetensors").write_bytes(safetensors(name[0].encode() * 64))
    command = (sys.executable, "-m", "pytest_compsec.cli", "pin", "--tensors")
    assert project.pytester.run(*command).ret == 0
    weights.write_bytes(safetensors(b"o" * 63 + b"n"))
    project.test_file(GOOD)
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "model.safetensors: 1 of 1 tensors differ: w" in result.stdout.str()
    assert project.asked() == []
