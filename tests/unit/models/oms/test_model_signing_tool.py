"""With the tool of OpenSSF itself: it verifies what is signed here, and what it signs verifies
here. ``make test-all`` installs it apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_compsec.errors import IntegrityError
from pytest_compsec.models.oms.signing import sign_model
from tests.unit.models.oms.signers import certificate, check, pem, private_pem, public_pem
from tests.unit.models.tiny_files import write_model

pytestmark = pytest.mark.heavy
METHODS = ("key", "certificate")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    pytest.importorskip("model_signing")
    (tmp_path / "key.pem").write_bytes(private_pem())
    (tmp_path / "key.pub").write_bytes(public_pem())
    (tmp_path / "leaf.pem").write_bytes(pem(certificate("publisher", "middle")))
    (tmp_path / "middle.pem").write_bytes(pem(certificate("middle", "root", authority=True)))
    (tmp_path / "root.pem").write_bytes(pem(certificate("root", "root", authority=True)))
    folder = write_model(tmp_path / "model")
    (folder / "sub.d").mkdir()
    (folder / "sub").mkdir()
    (folder / "sub" / "vocab.txt").write_text("a", encoding="utf-8")
    (folder / "sub.d" / "merges.txt").write_text("b", encoding="utf-8")
    (folder / ".gitattributes").write_text("*.safetensors -text", encoding="utf-8")
    return folder


def tool(model: Path, *words: str) -> bool:
    """Run it beside the model."""
    command = [sys.executable, "-m", "model_signing", *words]
    done = subprocess.run(
        [*command, "--signature", "model/model.sig", "model"],
        cwd=model.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0


def tool_verifies(model: Path, method: str) -> bool:
    trusted = {
        "key": ("--public_key", "key.pub"),
        "certificate": ("--certificate_chain", "root.pem"),
    }
    # Whether it looks at git's files or not.
    return all(
        tool(model, "verify", method, f"--{word}ignore-git-paths", *trusted[method])
        for word in ("", "no-")
    )


@pytest.mark.parametrize("method", METHODS)
def test_it_verifies_what_is_signed_here(model: Path, method: str) -> None:
    root = model.parent
    if method == "key":
        sign_model(model, root / "key.pem")
    else:
        chain = [root / "middle.pem", root / "root.pem"]
        sign_model(model, root / "key.pem", certificate=root / "leaf.pem", chain=chain)
    assert tool_verifies(model, method)
    (model / "config.json").write_text("{}", encoding="utf-8")
    assert not tool_verifies(model, method)


@pytest.mark.parametrize("method", METHODS)
def test_what_it_signs_verifies_here(model: Path, method: str) -> None:
    keys = {
        "key": ("--private_key", "key.pem"),
        "certificate": (
            "--private_key", "key.pem", "--signing_certificate", "leaf.pem",
            "--certificate_chain", "middle.pem",
        ),
    }  # fmt: skip
    entry: dict[str, Any] = {"key": "key.pub"}
    if method == "certificate":
        entry = {"certificates": ["root.pem"]}
    assert tool(model, "sign", method, *keys[method])
    check(model, **entry)
    (model / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"config\.json: is not the file that was signed"):
        check(model, **entry)
