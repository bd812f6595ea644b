"""The lock as text: written whole or not at all, read with suspicion."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.models.integrity import require_lock_digest
from pytest_compsec.models.lock import Lock, lock_digest, lock_text, read_lock, write_lock
from tests.unit.models.tiny_files import pinned_suite


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    return pinned_suite(tmp_path)[1]


def test_what_is_written_is_what_is_read(tmp_path: Path, lock: Lock) -> None:
    path = tmp_path / "copy.lock"
    write_lock(lock, path)
    again = read_lock(path)
    assert again == lock
    assert again.digest == hashlib.sha256(path.read_bytes()).hexdigest() == lock_digest(path)
    assert lock_text(again) == path.read_text(encoding="utf-8")


def test_the_lock_names_every_input_of_a_verdict(tmp_path: Path, lock: Lock) -> None:
    text = (tmp_path / "compsec.lock").read_text(encoding="utf-8")
    payload = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert hashlib.sha256(payload).hexdigest() in text
    assert f"size = {len(payload)}" in text
    for words in (
        'role = "weights"',
        'role = "config"',
        'role = "tokenizer"',
        'role = "template"',
        'provenance = "UNVERIFIED"',
        "max_new_tokens = 64",
        'dtype = "checkpoint"',
        "sparsity = 0.5",
        "pytest-compsec = ",
        "[prompts.harmful]",
        "[prompts.benign]",
        "[judges.refusal]",
    ):
        assert words in text, words
    assert len(lock.models["assistant"].original.files.files) == 4  # type: ignore[union-attr]


def test_a_failed_write_leaves_the_old_lock_and_no_litter(
    tmp_path: Path, lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "compsec.lock"
    before = path.read_bytes()
    names = {entry.name for entry in tmp_path.iterdir()}

    def fail(self: Path, target: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_lock(Lock({}, {}, {}), path)
    assert path.read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == names


def test_others_can_read_the_lock(tmp_path: Path, lock: Lock) -> None:
    assert stat.S_IMODE((tmp_path / "compsec.lock").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1\n", "version = 2\n", "has version 2; .*Upgrade pytest-compsec"),
        ("version = 1\n", "version = 0\n", "has version 0"),
        ("version = 1\n", "", "'version' is missing"),
        ("version = 1\n", "version = 1\nextra = 3\n", "unknown key 'extra'"),
        ("version = 1\n", "version = \n", "not valid TOML"),
        ("version = 1\n", "version = 1\n<<<<<<< HEAD\n", "not valid TOML"),
        ('name = "config.json"', 'name = "../config.json"', "no plain relative path"),
        ('name = "config.json"', 'name = "/etc/config.json"', "no plain relative path"),
        ('name = "config.json"', 'name = "a\\nb"', "no plain relative path"),
        ('name = "config.json"', 'name = "./config.json"', "no plain relative path"),
        ('name = "config.json"', 'name = "tokenizer.json"', "lists a file twice"),
        ('role = "config"', 'role = "poem"', "role 'poem'"),
        ("size = ", "size = -", "'size' is negative"),
        ("size = ", "size = 1", "'tree' does not fit"),
        ('tree = "', 'tree = "z', "no sha256"),
        ('sha256 = "', 'sha256 = "A', "no sha256"),
        ("max_new_tokens = 64", 'max_new_tokens = "64"', "must be a int"),
        ('chat_template_kwargs = "{}"', 'chat_template_kwargs = "[]"', "JSON object"),
        ("[models.assistant.settings]", "[models.assistant.setting]", "unknown key 'setting'"),
    ],
)
def test_a_malformed_or_edited_lock_is_refused(
    tmp_path: Path, lock: Lock, old: str, new: str, message: str
) -> None:
    path = tmp_path / "compsec.lock"
    text = path.read_text(encoding="utf-8")
    assert old in text
    # The last one: the files of models come after the data files.
    path.write_text(new.join(text.rsplit(old, 1)), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        read_lock(path)
    assert str(path) in str(caught.value)


def test_a_digest_changed_by_hand_is_noticed(tmp_path: Path, lock: Lock) -> None:
    """The lock stays TOML, and still does not fit its own tree."""
    path = tmp_path / "compsec.lock"
    pinned = lock.models["assistant"].original.files
    assert pinned is not None
    digest = pinned.files[0].sha256
    text = path.read_text(encoding="utf-8").replace(digest, digest[::-1])
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="the lock was edited"):
        read_lock(path)


def test_a_missing_lock_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no lock.*compsec pin"):
        read_lock(tmp_path / "compsec.lock")


def test_the_lock_itself_can_be_pinned_from_outside(tmp_path: Path, lock: Lock) -> None:
    path = tmp_path / "compsec.lock"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    require_lock_digest(path, digest)
    require_lock_digest(path, digest.upper())
    path.write_text(path.read_text(encoding="utf-8") + "# touched\n", encoding="utf-8")
    with pytest.raises(IntegrityError, match=digest):
        require_lock_digest(path, digest)
