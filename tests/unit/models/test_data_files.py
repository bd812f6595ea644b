"""Data files of a config: pinned by their bytes, refused when they are others."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_compsec.cli import main
from pytest_compsec.config.data_files import BUILTIN_DATA
from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.models.data_files import data_names
from pytest_compsec.models.lock import read_lock
from pytest_compsec.models.verified import VerifiedInputs
from tests.unit.tiny_model import make_tiny_checkpoint

CONFIG = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      bf16: {quantize: {method: cast, dtype: bfloat16}}
data:
  texts: {file: ./texts.jsonl}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    make_tiny_checkpoint(tmp_path / "original")
    (tmp_path / "texts.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n', encoding="utf-8")
    path = tmp_path / "compsec.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    assert main(["pin", "--config", str(path)]) == 0
    return path


def opened(config: Path) -> VerifiedInputs:
    loaded = load_config(config)
    return VerifiedInputs.open(loaded, read_lock(loaded.lock_path))


def test_own_and_built_in_data_are_pinned_and_read(config: Path) -> None:
    loaded = load_config(config)
    assert data_names(loaded) == (*BUILTIN_DATA, "texts")
    assert set(read_lock(loaded.lock_path).data) == {*BUILTIN_DATA, "texts"}
    with opened(config) as inputs:
        assert inputs.data("texts").rows() == [(1, {"text": "one"}), (3, {"text": "two"})]
        for name in BUILTIN_DATA:
            assert inputs.data(name).rows()


def test_other_bytes_are_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "texts.jsonl").write_text('{"text": "three"}\n', encoding="utf-8")
    with opened(config) as inputs, pytest.raises(IntegrityError, match=r"'texts'.*texts\.jsonl"):
        inputs.data("texts")
    assert main(["verify", "--config", str(config)]) == 1
    assert "the data 'texts' (./texts.jsonl) are not what the lock pins" in capsys.readouterr().out


def test_what_is_read_is_what_was_hashed(config: Path) -> None:
    with opened(config) as inputs:
        before = inputs.data("texts")
        (config.parent / "texts.jsonl").write_text("swapped", encoding="utf-8")
        assert inputs.data("texts").content == before.content


def test_data_that_are_not_in_the_lock_are_refused(config: Path) -> None:
    text = config.read_text(encoding="utf-8")
    config.write_text(text + "  more: {file: ./texts.jsonl}\n", encoding="utf-8")
    with opened(config) as inputs, pytest.raises(IntegrityError, match="not in the lock"):
        inputs.data("more")


def test_an_earlier_lock_without_data_is_a_note_and_not_a_failure(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = config.parent / "compsec.lock"
    config.write_text(CONFIG.partition("data:")[0], encoding="utf-8")
    text = lock.read_text(encoding="utf-8")
    kept, _, rest = text.partition("[data.")
    lock.write_text(kept + rest[rest.index("[models.") :], encoding="utf-8")
    assert main(["verify", "--config", str(config)]) == 0
    assert "the built-in data 'facts' are not in the lock" in capsys.readouterr().out
    with opened(config) as inputs, pytest.raises(IntegrityError, match="compsec pin"):
        inputs.data("facts")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("  gone: {file: ./gone.jsonl}", "gone.jsonl' is no file"),
        ("  code: {file: ./original}", "must end in one of .jsonl"),
        ("  facts: {file: ./texts.jsonl}", "is the name of built-in data"),
        ("  texts2: {fil: ./texts.jsonl}", "did you mean 'file'"),
    ],
)
def test_a_wrong_entry_names_its_line(config: Path, line: str, message: str) -> None:
    config.write_text(CONFIG + line + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(config)
    assert str(caught.value).startswith(f"{config}:9:")


def test_an_unknown_name_says_how_to_add_it(config: Path) -> None:
    with opened(config) as inputs, pytest.raises(ConfigError, match=r"data: \{other: \{file:"):
        inputs.data("other")


def test_malformed_rows_are_named_with_their_line(config: Path) -> None:
    (config.parent / "texts.jsonl").write_text('{"text": "one"}\nno json\n', encoding="utf-8")
    assert main(["pin", "--config", str(config)]) == 0
    with opened(config) as inputs, pytest.raises(ConfigError, match=r"\./texts\.jsonl:2: "):
        inputs.data("texts").rows()
