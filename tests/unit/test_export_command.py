"""``compsec export``: files that are the same model, whole or not at all, and their pins."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pytest_compsec.commands.export import add_arguments, run_export
from pytest_compsec.errors import CompsecError, ConfigError, LoadError
from pytest_compsec.models import exported
from pytest_compsec.models.headers import read_headers
from pytest_compsec.models.integrity import tree_digest
from pytest_compsec.models.loading import load
from pytest_compsec.models.lock import EXPECTED_MATCHED, read_lock
from pytest_compsec.models.pinning import pin
from pytest_compsec.suite import open_suite
from tests.unit.models.test_adapters import write_adapter
from tests.unit.tiny_model import make_tiny_checkpoint

Capture = pytest.CaptureFixture[str]

VARIANTS: dict[str, Any] = {
    "nf4": {"quantize": {"method": "bitsandbytes", "bits": 4, "type": "nf4"}},
    "nested": {
        "quantize": {"method": "bitsandbytes", "bits": 4, "type": "fp4", "double_quant": True}
    },
    "int8": {"quantize": {"method": "bitsandbytes", "bits": 8}},
    "nf4-kept": {
        "quantize": {
            "method": "bitsandbytes",
            "bits": 4,
            "type": "nf4",
            "keep_in_full_precision": ["model.layers.1", "*.down_proj"],
        }
    },
    "nf4-tuned": {
        "quantize": {"method": "bitsandbytes", "bits": 4, "type": "nf4"},
        "adapter": "./adapter",
    },
    "pruned": {"prune": {"method": "magnitude", "sparsity": 0.5}},
    "rounded": {"quantize": {"method": "round-to-nearest", "bits": 4}},
    "halved": {"quantize": {"method": "cast", "dtype": "bfloat16"}},
    "narrow": {"prune": {"method": "channels", "share": 0.25}},
    "shorter": {"prune": {"method": "layers", "drop": [1]}},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pinned project with one tiny original and a variant of every kind."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("peft")
    root = tmp_path_factory.mktemp("project")
    make_tiny_checkpoint(root / "original")
    write_adapter(root / "adapter-made", root / "original")
    (root / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (root / "adapter-made" / name).rename(root / "adapter" / name)
    write_config(root, VARIANTS)
    pin(root / "compsec.yaml")
    return root


def write_config(root: Path, variants: dict[str, Any]) -> None:
    config = {
        "version": 1,
        "models": {"tiny": {"original": {"source": "./original"}, "compressed": variants}},
    }
    (root / "compsec.yaml").write_text(yaml.safe_dump(config))


def export(project: Path, variant: str, directory: Path, *more: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default=str(project / "compsec.yaml"))
    add_arguments(parser)
    return run_export(parser.parse_args([f"tiny-{variant}", str(directory), *more]))


def logits(root: Path, variant: str) -> torch.Tensor:
    with open_suite(root / "compsec.yaml") as suite:
        model = load(suite.inputs.arm("tiny", variant))
        with torch.no_grad():
            result: torch.Tensor = model.module(torch.arange(30).unsqueeze(0) + 3).logits
    return result


@pytest.fixture
def copied(project: Path, tmp_path: Path) -> Path:
    """The project with a config and a lock that a test may change."""
    for name in ("original", "adapter"):
        (tmp_path / name).symlink_to(project / name, target_is_directory=True)
    for name in ("compsec.yaml", "compsec.lock"):
        (tmp_path / name).write_bytes((project / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    "variant",
    ["nf4", "nested", "int8", "nf4-kept", "pruned", "halved", "narrow", "shorter"],
)
def test_the_pasted_line_makes_a_source_variant_with_the_same_logits(
    copied: Path, variant: str, capsys: Capture
) -> None:
    assert export(copied, variant, copied / "out") == 0
    out = capsys.readouterr().out
    assert f"digest of {copied / 'out'}: {tree_digest(copied / 'out')}" in out
    pasted = yaml.safe_load(next(line for line in out.splitlines() if "{source:" in line))
    assert pasted == {f"{variant}-files": {"source": "./out"}}
    write_config(copied, {**VARIANTS, **pasted})
    pin(copied / "compsec.yaml")
    assert torch.equal(logits(copied, f"{variant}-files"), logits(copied, variant))
    # And a run takes it for compressed, as measured.
    with open_suite(copied / "compsec.yaml") as suite:
        suite.pair(f"tiny-{variant}-files").require_compressed()


def test_kept_layers_stay_out_of_the_quantization(copied: Path) -> None:
    export(copied, "nf4-kept", copied / "out")
    config = json.loads((copied / "out" / "config.json").read_text())["quantization_config"]
    kept = config["llm_int8_skip_modules"]
    assert "model.layers.1.mlp.up_proj" in kept
    assert "model.layers.0.mlp.down_proj" in kept
    assert "model.layers.0.mlp.up_proj" not in kept
    assert (config["load_in_4bit"], config["bnb_4bit_quant_type"]) == (True, "nf4")


def test_only_files_of_a_model_are_written(copied: Path) -> None:
    export(copied, "int8", copied / "out")
    names = {path.name for path in (copied / "out").iterdir()}
    assert names >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert {Path(name).suffix for name in names} <= {".json", ".safetensors", ".jinja"}
    assert str(copied) not in (copied / "out" / "config.json").read_text()


def test_an_adapter_on_top_is_written_beside_the_model(copied: Path, capsys: Capture) -> None:
    export(copied, "nf4-tuned", copied / "out", "--as", "served")
    out = capsys.readouterr().out
    assert "served: {source: ./out/model, adapter: ./out/adapter}" in out
    assert {path.name for path in (copied / "out").iterdir()} == {"model", "adapter"}
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        written = (copied / "out" / "adapter" / name).read_bytes()
        assert written == (copied / "adapter" / name).read_bytes()
    stored = read_headers(copied / "out" / "model")
    assert not any("lora" in name or "base_layer" in name for name in stored)


def test_a_simulated_variant_says_that_its_files_are_not_smaller(
    copied: Path, capsys: Capture
) -> None:
    export(copied, "rounded", copied / "out")
    assert "note: this variant simulates its quantization" in capsys.readouterr().out


def test_what_the_config_names_already_is_pinned(copied: Path, capsys: Capture) -> None:
    write_config(copied, {**VARIANTS, "served": {"source": "./out"}})
    export(copied, "nf4", copied / "out")
    out = capsys.readouterr().out
    assert "Pinned: compsec.yaml names" in out
    lock = read_lock(copied / "compsec.lock")
    assert lock.digest in out
    files = lock.models["tiny"].variants["served"].files
    assert files is not None
    assert files.tree == tree_digest(copied / "out")
    weights = next(file for file in files.files if file.role == "weights")
    assert weights.provenance == EXPECTED_MATCHED
    assert torch.equal(logits(copied, "served"), logits(copied, "nf4"))


def test_the_lock_is_left_alone_otherwise(copied: Path, capsys: Capture) -> None:
    before = (copied / "compsec.lock").read_bytes()
    export(copied, "nf4", copied / "out")
    assert (copied / "compsec.lock").read_bytes() == before
    assert "compsec pin --expect ./out/model.safetensors=" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["save_pretrained", "probe"])
def test_an_interrupted_export_leaves_nothing(
    copied: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    if where == "probe":
        monkeypatch.setattr(exported, "_probe", interrupted)
    else:
        from transformers import PreTrainedTokenizerFast

        monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", interrupted)
    before = sorted(copied.iterdir())
    with pytest.raises(KeyboardInterrupt):
        export(copied, "nf4", copied / "out")
    assert sorted(copied.iterdir()) == before


def test_files_that_are_another_model_are_not_left_behind(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exported._write

    def changes_a_weight(loaded: Any, directory: Path) -> None:
        real(loaded, directory)
        from safetensors.torch import load_file, save_file

        path = directory / "model.safetensors"
        tensors = load_file(path)
        tensors["model.norm.weight"][0] += 0.25
        save_file(tensors, path, metadata={"format": "pt"})

    monkeypatch.setattr(exported, "_write", changes_a_weight)
    with pytest.raises(LoadError, match=r"not the same .its logits are others"):
        export(copied, "pruned", copied / "out")
    assert not (copied / "out").exists()


def test_a_chat_template_that_got_lost_is_noticed(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exported._write

    def another_template(loaded: Any, directory: Path) -> None:
        real(loaded, directory)
        template = directory / "chat_template.jinja"
        template.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")

    monkeypatch.setattr(exported, "_write", another_template)
    with pytest.raises(LoadError, match="tokenizer or chat template reads prompts otherwise"):
        export(copied, "pruned", copied / "out")
    assert not (copied / "out").exists()


def test_nothing_is_overwritten(copied: Path) -> None:
    with pytest.raises(CompsecError, match="is not empty, and nothing is overwritten"):
        export(copied, "nf4", copied)


def test_what_cannot_be_exported_is_said(copied: Path) -> None:
    with pytest.raises(ConfigError, match=r"no pair 'tiny-nf5'; there are: .*tiny-nf4"):
        export(copied, "nf5", copied / "out")
    write_config(copied, {**VARIANTS, "served": {"source": "./original"}})
    with pytest.raises(
        ConfigError, match=r"compsec\.yaml:\d+: tiny-served has a source of its own"
    ):
        export(copied, "served", copied / "out")
    with pytest.raises(ConfigError, match="--as 'a b' must be letters"):
        export(copied, "nf4", copied / "out", "--as", "a b")


def test_a_tampered_original_is_not_exported(copied: Path) -> None:
    original = copied / "original"
    files = {path.name: path.read_bytes() for path in original.iterdir()}
    original.unlink()
    original.mkdir()
    for name, data in files.items():
        (original / name).write_bytes(data)
    (original / "config.json").write_bytes(files["config.json"] + b" ")
    with pytest.raises(CompsecError, match=r"config\.json: is not what the lock pins"):
        export(copied, "nf4", copied / "out")
    assert not (copied / "out").exists()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("hqq", {"bits": 4, "group_size": 64}),
        ("torchao", {"bits": 8, "group_size": 32}),
    ],
)
def test_what_the_libraries_cannot_save_is_refused_before_anything_is_loaded(
    tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    from tests.unit.tiny_model import make_arm, make_recipe

    arm = make_arm(tmp_path, recipe=make_recipe("quantize", method=method, **options))

    def load_nothing(_: object) -> Any:
        raise AssertionError("was loaded")

    with pytest.raises(CompsecError, match=f"method {method} cannot be written as files"):
        exported.export_files(load_nothing, arm, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_whoever_may_read_new_files_may_read_the_weights(tmp_path: Path) -> None:
    """safetensors writes for the owner alone, and a server runs as somebody else."""
    from pytest_compsec.atomic_directory import new_directory

    with new_directory(tmp_path / "model") as temporary:
        (temporary / "below").mkdir(mode=0o700)
        for name in ("weights", "below/weights"):
            (temporary / name).touch(mode=0o600)
    plain = tmp_path / "plain"
    plain.touch()
    (tmp_path / "folder").mkdir()
    mode = plain.stat().st_mode
    assert (tmp_path / "model" / "weights").stat().st_mode == mode
    assert (tmp_path / "model" / "below" / "weights").stat().st_mode == mode
    assert (tmp_path / "model" / "below").stat().st_mode == (tmp_path / "folder").stat().st_mode
