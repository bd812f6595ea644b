"""The commands of the pages about signing, run for real, in order, on a tiny model: what a reader
does between the blocks (name the files in the config) is done here as the page says it."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.docs.fences import DOCS, Fence, commands, fences
from tests.docs.tiny_project import RECIPE, run, smaller, trained_model, write_config, write_project
from tests.inner_pytest import forget_the_outer_run
from tests.unit.models.oms.signers import certificate, pem, private_pem

pytest.importorskip("cryptography")
#: Commands that are not run here: a network, another identity, or a package of `make test-all`.
NOT_RUN = ("pip", "sigstore", "model_signing")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    source = trained_model(folder)
    smaller(source, folder / "smaller")
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a page's reader stands: two models, nothing else."""
    forget_the_outer_run(monkeypatch)
    monkeypatch.delenv("COMPSEC_SIGN_PASSWORD", raising=False)
    shutil.copytree(trained / "trained", tmp_path / "models" / "assistant")
    shutil.copytree(trained / "smaller", tmp_path / "models" / "assistant-int8")
    return tmp_path


def left_out(words: list[str]) -> bool:
    return any(name in word for word in words for name in NOT_RUN)


def follow(page: Path, folder: Path, before: Callable[[str], None] = lambda line: None) -> set[str]:
    """Run every command of the page's console blocks, ``before`` of each; the lines that ran."""
    done = set()
    for block in fences(page):
        if block.language != "console":
            continue
        for words in commands(block):
            line = shlex.join(words)
            if left_out(words):
                continue
            before(line)
            ended = run(words, folder)
            assert ended.returncode == 0, f"{block}: {line}\n{ended.stdout}\n{ended.stderr}"
            done.add(line.partition(" -")[0].split(" ./")[0])
    return done


def shown_models(page: Path) -> dict[str, object]:
    """The models of the page's first config."""
    block: Fence = next(fence for fence in fences(page) if fence.language == "yaml")
    found: dict[str, object] = yaml.safe_load(block.text)["models"]
    return found


def result_of(path: Path) -> str:
    """What a certificate says, from its envelope's payload."""
    import base64

    payload = json.loads(path.read_text("utf-8"))["payload"]
    found: str = json.loads(base64.b64decode(payload))["predicate"]["result"]
    return found


def test_the_page_of_certificates(folder: Path) -> None:
    models = {
        "assistant": {
            "original": {"source": "./models/assistant"},
            "compressed": {"nf4": RECIPE},
        }
    }
    write_project(folder, models, "nf4")
    assert run(["compsec", "pin"], folder).returncode == 0

    def name_the_files(line: str) -> None:
        # "Write it first, name the files as `source`, pin and test those".
        if line == "compsec pin":
            models["assistant"]["compressed"] = {"nf4": {"source": "./assistant-nf4"}}
            write_config(folder, models)

    ran = follow(DOCS / "certificates.md", folder, name_the_files)
    assert {"compsec export assistant-nf4", "compsec pin", "openssl genpkey", "pytest",
            "compsec verify-certificate model.intoto.json"} <= ran  # fmt: skip
    assert result_of(folder / "model.intoto.json") == "PASSED"


def test_the_page_of_signing(folder: Path) -> None:
    page = DOCS / "how-to" / "sign.md"

    def use_the_model(line: str) -> None:
        # Between signing and the run stands the config that asks for the signature.
        if line.startswith("pytest"):
            write_project(folder, shown_models(page), "int8")
            for command in ("pin", "verify"):
                ended = run(["compsec", command], folder)
                assert ended.returncode == 0, ended.stderr

    ran = follow(page, folder, use_the_model)
    assert {"openssl ecparam", "openssl ec", "compsec sign", "pytest",
            "compsec verify-certificate assistant.intoto.json"} <= ran  # fmt: skip
    assert (folder / "models" / "assistant-int8" / "model.sig").is_file()
    assert result_of(folder / "assistant.intoto.json") == "PASSED"


def test_the_page_of_signed_models(folder: Path) -> None:
    page = DOCS / "signed_models.md"
    ran = follow(page, folder)
    assert {"openssl ecparam", "openssl ec", "compsec sign models/assistant"} <= ran
    # The other form of the page's config is signed by certificate, which its prose says how to do.
    (folder / "leaf.key").write_bytes(private_pem("leaf"))
    (folder / "leaf.pem").write_bytes(pem(certificate("leaf", "our-ca")))
    (folder / "our-ca.pem").write_bytes(pem(certificate("our-ca", "our-ca", authority=True)))
    signing = ["compsec", "sign", "models/assistant-int8", "--key", "leaf.key",
               "--certificate", "leaf.pem", "--chain", "our-ca.pem"]  # fmt: skip
    ended = run(signing, folder)
    assert ended.returncode == 0, ended.stderr
    write_project(folder, shown_models(page), "int8")
    for command in ("pin", "verify"):
        ended = run(["compsec", command], folder)
        assert ended.returncode == 0, ended.stderr


@pytest.mark.heavy
def test_the_other_tool_of_the_page_verifies_too(folder: Path) -> None:
    if importlib.util.find_spec("model_signing") is None:
        pytest.skip("model-signing is not installed")
    page = DOCS / "signed_models.md"
    follow(page, folder)
    lines = [words for block in fences(page) if block.language == "console"
             for words in commands(block) if "model_signing" in words]  # fmt: skip
    assert lines
    for words in lines:
        ended = run(words, folder)
        assert ended.returncode == 0, ended.stderr
