"""``pin``: what it writes, what it refuses, and what it says has changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.models import agreement
from pytest_compsec.models.lock import EXPECTED_MATCHED, SourcePin
from pytest_compsec.models.pinning import PinResult, pin
from tests.unit.models.tiny_files import CONFIG, safetensors, write_suite


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_suite(tmp_path)


def original(result: PinResult) -> SourcePin:
    files = result.lock.models["assistant"].original.files
    assert files is not None
    return files


def changed(result: PinResult) -> str:
    return "\n".join(result.changes)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_first_pin_lists_everything_as_added(config: Path) -> None:
    result = pin(config)
    assert result.created
    assert all(line.startswith("added") for line in result.changes)
    for words in ("judge refusal", "prompts harmful", "assistant: model.safetensors",
                  "assistant-half: recipe", "assistant-other: config.json"):  # fmt: skip
        assert words in changed(result)


def test_pinning_again_changes_nothing_and_writes_nothing(config: Path) -> None:
    pin(config)
    lock = config.with_name("compsec.lock")
    before = (lock.read_bytes(), lock.stat().st_mtime_ns, lock.stat().st_ino)
    result = pin(config)
    assert result.changes == ()
    assert not result.created
    assert (lock.read_bytes(), lock.stat().st_mtime_ns, lock.stat().st_ino) == before


def test_a_changed_file_is_shown_with_both_digests(config: Path) -> None:
    pin(config)
    file = config.parent / "model" / "config.json"
    old = sha256(file)
    file.write_text('{"other": 1}', encoding="utf-8")
    (line,) = pin(config).changes
    assert line.startswith("changed  assistant: config.json\n")
    assert f"was sha256 {old}" in line
    assert f"now sha256 {sha256(file)}" in line


def test_added_and_removed_files_and_variants_are_shown(config: Path) -> None:
    pin(config)
    (config.parent / "model" / "tokenizer.json").rename(config.parent / "model" / "vocab.json")
    config.write_text(CONFIG.replace("other:", "another:"), encoding="utf-8")
    result = pin(config)
    for words in (
        "removed  assistant: tokenizer.json",
        "added    assistant: vocab.json",
        "removed  assistant-other: model.safetensors",
        "added    assistant-another: model.safetensors",
    ):
        assert words in changed(result)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sparsity: 0.5", "sparsity: 0.6", "changed  assistant-half: recipe"),
        ("  assistant:\n", "  assistant:\n    system: Hi.\n", "added    assistant: system"),
        ("  assistant:\n", "  assistant:\n    dtype: float16\n", "changed  assistant: dtype"),
        (
            "version: 1\n",
            "version: 1\ndefaults: {max_new_tokens: 9}\n",
            "changed  assistant: max_new_tokens",
        ),
    ],
)
def test_changed_settings_are_shown(config: Path, old: str, new: str, words: str) -> None:
    pin(config)
    config.write_text(CONFIG.replace(old, new), encoding="utf-8")
    assert words in changed(pin(config))


def test_a_new_tool_version_is_shown(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(config)
    monkeypatch.setattr(agreement, "tool_version", lambda tool: "99.0")
    assert "(pytest-compsec 99.0)" in changed(pin(config))


@pytest.mark.parametrize("name", ["model.safetensors", "./model/model.safetensors"])
def test_expect_vouches_for_a_file(config: Path, name: str) -> None:
    digest = sha256(config.parent / "other" / "model.safetensors")
    text = CONFIG.replace("source: ./model", "source: ./other")
    config.write_text(text, encoding="utf-8")
    name = name.replace("./model/", "./other/")
    result = pin(config, expect={name: digest.upper()})
    provenance = {file.name: file.provenance for file in original(result).files}
    assert provenance["model.safetensors"] == EXPECTED_MATCHED
    assert provenance["config.json"] == "UNVERIFIED"
    again = original(pin(config))  # the same bytes: what was vouched for stays so
    assert {file.name: file.provenance for file in again.files} == provenance
    (config.parent / "other" / "model.safetensors").write_bytes(safetensors(b"\x09" * 64))
    after = original(pin(config))
    assert {file.provenance for file in after.files} == {"UNVERIFIED"}


def test_expect_refuses_another_content_and_writes_nothing(config: Path) -> None:
    with pytest.raises(IntegrityError, match="not what --expect asks for") as caught:
        pin(config, expect={"model.safetensors": "0" * 64})
    assert "0" * 64 in str(caught.value)
    assert sha256(config.parent / "model" / "model.safetensors") in str(caught.value)
    assert not config.with_name("compsec.lock").exists()
    # Two sources have a file of that name; with its source the name is clear.
    digest = sha256(config.parent / "model" / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"--expect \./other/model\.safetensors=HEX"):
        pin(config, expect={"model.safetensors": digest})
    pin(config, expect={"./model/model.safetensors": digest})


def test_expect_for_a_name_that_no_source_has_is_an_error(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"'modle\.safetensors'"):
        pin(config, expect={"modle.safetensors": "0" * 64})
    assert not config.with_name("compsec.lock").exists()


def test_a_refused_file_leaves_the_old_lock(config: Path) -> None:
    pin(config)
    lock = config.with_name("compsec.lock")
    before = lock.read_bytes()
    (config.parent / "model" / "evil.py").write_text("", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"evil\.py: is code"):
        pin(config)
    assert lock.read_bytes() == before


def test_a_malformed_lock_is_not_silently_replaced(config: Path) -> None:
    """Else breaking the lock would be a way to hide what a pin changes."""
    lock = config.with_name("compsec.lock")
    lock.write_text("broken", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"delete .*compsec\.lock first"):
        pin(config)
    assert lock.read_text(encoding="utf-8") == "broken"
