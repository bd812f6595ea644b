"""Hub sources, end to end against a hub on the loopback interface."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_compsec.errors import ConfigError
from pytest_compsec.models.hub import choose_names
from tests.unit.models.loopback_hub import COMMIT, REPOSITORY, LoopbackHub, loopback_hub
from tests.unit.models.tiny_files import safetensors

FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{ }",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": safetensors(),
    "pytorch_model.bin": b"\x80\x02never",
    "modeling_custom.py": b"raise SystemExit",
    "original/consolidated.00.pth": b"\x80\x02never",
    "README.md": b"# a model",
}
WANTED = {
    "config.json",
    "tokenizer.json",
    "chat_template.jinja",
    "model.safetensors",
    "README.md",
}
#: Opens the original as a run does and prints what was staged.
RUN = """\
import sys
from pathlib import Path
from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import CompsecError
from pytest_compsec.models.lock import read_lock
from pytest_compsec.models.verified import VerifiedInputs
loaded = load_config(Path("compsec.yaml"))
try:
    with VerifiedInputs.open(loaded, read_lock(loaded.lock_path)) as inputs:
        arm = inputs.arm("m", None)
        print(sorted(path.name for path in arm.files.directory.iterdir()))
        print(arm.files.provenance)
except CompsecError as error:
    print(type(error).__name__, error)
    sys.exit(1)
"""


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with loopback_hub(FILES) as server:
        yield server


class Project:
    """A project with one hub model, worked on by processes of their own: the hub's client reads
    its environment once, when it is imported."""

    def __init__(self, root: Path, hub: LoopbackHub) -> None:
        self.root = root
        self.hub = hub
        self.home = root / "hub-home"
        self.snapshot = self.home / "hub" / "models--org--name" / "snapshots" / COMMIT
        self.lock = root / "compsec.lock"
        self.write(f"source: {REPOSITORY}, revision: {COMMIT}")

    def write(self, original: str) -> None:
        (self.root / "compsec.yaml").write_text(
            "version: 1\nmodels:\n  m:\n"
            f"    original: {{{original}}}\n"
            "    compressed: {half: {prune: {method: magnitude, sparsity: 0.5}}}\n",
            encoding="utf-8",
        )

    def python(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS"))
            and not key.lower().endswith("_proxy")
        }
        environment |= {
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            **variables,
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def compsec(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "pytest_compsec.cli", *arguments, **variables)

    def run(self, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.python("-c", RUN, **variables)


@pytest.fixture
def project(tmp_path: Path, hub: LoopbackHub) -> Project:
    return Project(tmp_path, hub)


def test_pin_then_run_from_the_hub(project: Project, hub: LoopbackHub) -> None:
    pinned = project.compsec("pin")
    assert pinned.returncode == 0, pinned.stderr
    # Neither the pickle nor the code was even asked for.
    assert hub.downloaded() == WANTED
    text = project.lock.read_text(encoding="utf-8")
    assert f'commit = "{COMMIT}"' in text
    assert text.count('provenance = "hub LFS sha256 matched"') == 1  # the weights
    assert text.count('provenance = "UNVERIFIED"') == len(WANTED) - 1

    hub.requests.clear()
    found = project.run()
    assert found.returncode == 0, found.stdout + found.stderr
    assert all(repr(name) in found.stdout for name in WANTED)
    assert hub.requests == []  # the snapshot is in the cache: no network at all
    verified = project.compsec("verify")
    assert verified.returncode == 0, verified.stdout
    assert "Nothing changed" in project.compsec("pin").stdout


def test_a_fresh_machine_downloads_the_pinned_names_only(
    project: Project, hub: LoopbackHub, tmp_path: Path
) -> None:
    assert project.compsec("pin").returncode == 0
    hub.requests.clear()
    hub.files["new.json"] = b"{}"
    found = project.run(HF_HOME=str(tmp_path / "fresh"))
    assert found.returncode == 0, found.stdout + found.stderr
    assert hub.downloaded() == WANTED


def test_offline_runs_use_the_cache_and_say_so_when_it_is_empty(
    project: Project, hub: LoopbackHub, tmp_path: Path
) -> None:
    assert project.compsec("pin").returncode == 0
    hub.requests.clear()
    assert project.run(HF_HUB_OFFLINE="1").returncode == 0
    text = project.lock.read_bytes()
    again = project.compsec("pin", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert project.lock.read_bytes() == text  # what was vouched for stays so for the same bytes
    found = project.run(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "fresh"))
    assert found.returncode == 1
    assert "HF_HUB_OFFLINE is set" in found.stdout
    assert "hf download org/name" in found.stdout
    assert hub.requests == []


def test_bytes_that_the_hub_does_not_vouch_for_are_not_pinned(
    project: Project, hub: LoopbackHub
) -> None:
    hub.lied["model.safetensors"] = "0" * 64
    found = project.compsec("pin")
    assert found.returncode == 1
    assert "model.safetensors: differs from the sha256 that another party gives" in found.stderr
    assert "0" * 64 in found.stderr
    assert not project.lock.exists()


def test_a_tampered_cache_is_refused(project: Project) -> None:
    assert project.compsec("pin").returncode == 0
    blob = (project.snapshot / "model.safetensors").resolve()
    blob.write_bytes(safetensors(b"\x07" * 64))
    found = project.run()
    assert found.returncode == 1
    assert "IntegrityError org/name/model.safetensors" in found.stdout


def test_files_added_to_the_snapshot_are_refused(project: Project) -> None:
    assert project.compsec("pin").returncode == 0
    names = ("pytorch_model.bin", "custom.py", "extra.json")
    for name in names:
        (project.snapshot / name).write_bytes(b"{}")
    found = project.run()
    assert found.returncode == 1
    assert all(f"org/name/{name}: " in found.stdout for name in names)


def test_a_link_that_leaves_the_repositorys_cache_is_refused(project: Project) -> None:
    assert project.compsec("pin").returncode == 0
    outside = project.root / "outside.json"
    outside.write_bytes(b"{}")  # the very bytes that are pinned
    (project.snapshot / "config.json").unlink()
    (project.snapshot / "config.json").symlink_to(outside)
    found = project.run()
    assert found.returncode == 1
    assert "org/name/config.json: is a link to" in found.stdout


def test_a_moving_revision_is_resolved_by_pin_and_only_by_pin(
    project: Project, hub: LoopbackHub
) -> None:
    project.write(f"source: {REPOSITORY}, revision: main, allow_moving_revision: true")
    assert project.compsec("pin").returncode == 0
    assert f'commit = "{COMMIT}"' in project.lock.read_text(encoding="utf-8")
    moved = "f" * 40
    hub.commit = moved
    hub.files["config.json"] = b'{"moved": true}'
    assert COMMIT in project.run().stdout  # a run stays at the pinned commit
    again = project.compsec("pin")
    assert again.returncode == 0
    assert f"was {COMMIT} (revision main)" in again.stdout
    assert f"now {moved} (revision main)" in again.stdout
    assert "changed  m: config.json" in again.stdout


def test_one_gguf_file_of_a_repository(project: Project, hub: LoopbackHub) -> None:
    hub.files["m.Q4_K_M.gguf"] = b"GGUF" + b"\0" * 64
    hub.files["m.Q8_0.gguf"] = b"GGUF" + b"\1" * 64
    project.write(f"source: {REPOSITORY}/m.Q4_K_M.gguf, revision: {COMMIT}")
    assert project.compsec("pin").returncode == 0
    assert hub.downloaded() == {"m.Q4_K_M.gguf"}
    assert "['m.Q4_K_M.gguf']" in project.run().stdout


@pytest.mark.parametrize(
    ("original", "message"),
    [
        (f"source: org/unknown, revision: {COMMIT}", "knows no such repository"),
        (f"source: {REPOSITORY}, revision: {'a' * 40}", "no such revision"),
    ],
)
def test_what_the_hub_does_not_have(project: Project, original: str, message: str) -> None:
    project.write(original)
    found = project.compsec("pin")
    assert found.returncode == 2
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_a_gated_repository_says_accept_and_token(project: Project, hub: LoopbackHub) -> None:
    hub.gated = True
    found = project.compsec("pin")
    assert found.returncode == 2
    assert "is gated" in found.stderr
    assert "HF_TOKEN" in found.stderr


def test_a_hub_that_cannot_be_reached(project: Project) -> None:
    found = project.compsec("pin", HF_ENDPOINT="http://127.0.0.1:9")
    assert found.returncode == 2
    assert "Traceback" not in found.stderr
    assert found.stderr.count("\n") <= 3


def test_init_resolves_a_hub_id_to_its_commit(project: Project) -> None:
    folder = project.root / "new"
    folder.mkdir()
    found = project.compsec("init", REPOSITORY, "prune50", "--dir", str(folder))
    assert found.returncode == 0, found.stderr
    text = (folder / "compsec.yaml").read_text(encoding="utf-8")
    assert f"{{source: {REPOSITORY}, revision: {COMMIT}}}" in text


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["config.json", "model.safetensors", "m.gguf"], ["config.json", "model.safetensors"]),
        (["model.safetensors", "pytorch_model.bin", "x.py"], ["model.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "consolidated.safetensors"],
            ["model-00001-of-00002.safetensors"],
        ),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["model.safetensors", "onnx/model.json"], ["model.safetensors"]),
    ],
)
def test_only_what_a_safe_loader_needs_is_fetched(names: list[str], chosen: list[str]) -> None:
    assert choose_names("org/name", names, None) == chosen


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["config.json", "pytorch_model.bin"], "convert them to safetensors"),
        (["a.gguf", "b.gguf"], r"name one of them: org/name/a\.gguf"),
    ],
)
def test_repositories_without_safetensors(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_names("org/name", names, None)
