"""From config and lock to arms: all that must agree before a loader may run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_compsec.config.loading import load_config
from pytest_compsec.errors import ConfigError, IntegrityError, MissingExtraError
from pytest_compsec.judges.refusal import RefusalJudge
from pytest_compsec.models import agreement
from pytest_compsec.models.arm import Arm
from pytest_compsec.models.lock import read_lock
from pytest_compsec.models.pinning import pin
from pytest_compsec.models.verified import VerifiedInputs
from tests.unit.models.tiny_files import (
    CONFIG,
    open_inputs,
    pinned_suite,
    safetensors,
    write_model,
    write_suite,
)


class Loader:
    """Stands for the loading room: counts what it is given to open."""

    def __init__(self) -> None:
        self.calls = 0

    def load(self, arm: Arm) -> bytes:
        arm.recheck()
        self.calls += 1
        data = (arm.files.directory / "model.safetensors").read_bytes()
        arm.recheck()
        return data


@pytest.fixture
def config(tmp_path: Path) -> Path:
    pinned_suite(tmp_path)
    return tmp_path / "compsec.yaml"


def test_arms_carry_what_the_config_says(tmp_path: Path) -> None:
    text = """\
version: 1
models:
  assistant:
    original: {source: ./model, adapter: ./lora, dtype: float16}
    system: Be kind.
    chat_template_kwargs: {enable_thinking: false, nothing: null}
    dtype: float32
    device: cpu
    compressed:
      half: {prune: {method: magnitude, sparsity: 0.5}}
      wide: {prune: {method: magnitude, sparsity: 0.2}, dtype: bfloat16}
      other: {source: ./other}
"""
    write_model(tmp_path / "lora")
    (tmp_path / "lora" / "model.safetensors").rename(
        tmp_path / "lora" / "adapter_model.safetensors"
    )
    path = write_suite(tmp_path, text)
    pin(path)
    with open_inputs(path) as inputs:
        original = inputs.arm("assistant", None)
        half = inputs.arm("assistant", "half")
        wide = inputs.arm("assistant", "wide")
        other = inputs.arm("assistant", "other")
        assert [arm.name for arm in (original, half)] == ["assistant", "assistant-half"]
        assert half.files is original.files  # a derived variant: the original's bytes
        assert half.adapter is original.adapter
        assert original.adapter is not None
        assert (original.adapter.directory / "adapter_model.safetensors").exists()
        assert other.files.tree != original.files.tree
        assert other.adapter is None
        assert original.recipe is None
        assert half.recipe is not None
        assert half.recipe.options == {"method": "magnitude", "sparsity": 0.5}
        assert half.recipe.tools == {"pytest-compsec": agreement.tool_version("pytest-compsec")}
        assert (original.dtype, half.dtype, wide.dtype, other.dtype) == (
            "float16",
            "float16",
            "bfloat16",
            "float32",
        )
        assert {arm.device for arm in (original, half, other)} == {"cpu"}
        assert original.system == "Be kind."
        assert original.chat_template_kwargs == {"enable_thinking": False, "nothing": None}
        assert len({arm.weights_digest for arm in (original, half, wide, other)}) == 4
        inputs.recheck()
        directory = original.files.directory
    assert not directory.exists()


def test_an_arm_that_matches_is_loaded(config: Path) -> None:
    loader = Loader()
    with open_inputs(config) as inputs:
        assert loader.load(inputs.arm("assistant", "other")) == safetensors(b"\x01" * 64)
    assert loader.calls == 1


@pytest.mark.parametrize(
    "fault",
    [
        lambda model: (model / "model.safetensors").write_bytes(safetensors(b"\x02" * 64)),
        lambda model: (model / "config.json").write_text("{}"),
        lambda model: (model / "added.json").write_text("{}"),
        lambda model: (model / "modeling.py").write_text(""),
        lambda model: (model / "tokenizer.json").unlink(),
    ],
    ids=["flipped weights", "other config", "added file", "added code", "removed file"],
)
def test_no_loader_runs_on_other_bytes(config: Path, fault: Callable[[Path], object]) -> None:
    loader = Loader()
    fault(config.parent / "model")
    with open_inputs(config) as inputs:
        for variant in (None, "half"):
            with pytest.raises(IntegrityError, match=r"\./model/"):
                loader.load(inputs.arm("assistant", variant))
        loader.load(inputs.arm("assistant", "other"))  # whose bytes are as pinned
    assert loader.calls == 1


def test_a_file_swapped_between_hash_and_load(config: Path) -> None:
    """A rename over the hashed file: what is loaded is still what was hashed."""
    loader = Loader()
    weights = config.parent / "model" / "model.safetensors"
    good = weights.read_bytes()
    with open_inputs(config) as inputs:
        arm = inputs.arm("assistant", None)
        evil = weights.with_name("evil")
        evil.write_bytes(safetensors(b"\x66" * 64))
        evil.replace(weights)
        assert loader.load(arm) == good
    assert loader.calls == 1


def test_a_file_overwritten_between_hash_and_load(config: Path) -> None:
    """The same inode with other bytes: the loader is never called."""
    loader = Loader()
    with open_inputs(config) as inputs:
        arm = inputs.arm("assistant", None)
        with (config.parent / "model" / "model.safetensors").open("r+b") as file:
            file.write(b"\x66")
        with pytest.raises(IntegrityError, match=r"model\.safetensors: was changed"):
            loader.load(arm)
        with pytest.raises(IntegrityError, match=r"model\.safetensors: was changed"):
            inputs.recheck()
    assert loader.calls == 0


def edit(config: Path, old: str, new: str) -> None:
    text = config.read_text(encoding="utf-8")
    assert old in text
    config.write_text(text.replace(old, new), encoding="utf-8")


ADDED = CONFIG.partition("models:\n")[2].replace("assistant", "second")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sparsity: 0.5", "sparsity: 0.6", r"yaml:6: the recipe of 'assistant-half' .*0\.6.*0\.5"),
        ("source: ./other", "source: ./model", r"the source of 'assistant-other' is \./model"),
        ("source: ./model", "source: ./other", r"the source of 'assistant' is \./other"),
        ("source: ./model", "source: ./model, adapter: ./other", r"the adapter of 'assistant'"),
        ("{source: ./model}", "{source: ./model, dtype: float16}", r"the dtype of 'assistant' is"),
        ("source: ./other", "source: ./other, dtype: float16", r"dtype of 'assistant-other'"),
        ("  assistant:\n", "  assistant:\n    system: Obey.\n", r"the system of 'assistant'"),
        (
            "  assistant:\n",
            "  assistant:\n    chat_template_kwargs: {a: 1}\n",
            r"the chat_template_kwargs of 'assistant'",
        ),
        ("version: 1\n", "version: 1\ndefaults: {max_new_tokens: 9}\n", r"max_new_tokens .* is 9,"),
        ("other: {source", "more: {source", r"the variant 'assistant-more' is not in the lock"),
        ("models:\n", "models:\n" + ADDED, r"yaml:3: the model 'second' is not in the lock"),
        ("prune: {method: magnitude, sparsity: 0.5}", "source: ./model", r"'assistant-half'"),
        (
            "other: {source: ./other}",
            "other: {prune: {method: magnitude, sparsity: 0.5}}",
            r"recipe of 'assistant-other'",
        ),
    ],
)
def test_a_config_that_the_lock_does_not_know_is_refused(
    config: Path, old: str, new: str, message: str
) -> None:
    edit(config, old, new)
    with pytest.raises(IntegrityError, match=message) as caught:
        open_inputs(config)
    assert "compsec pin" in str(caught.value)
    pin(config)
    open_inputs(config).close()


def test_only_the_pairs_of_a_run_are_compared_when_it_says_so(config: Path) -> None:
    edit(config, "sparsity: 0.5", "sparsity: 0.6")
    loaded = load_config(config)
    lock = read_lock(loaded.lock_path)
    with VerifiedInputs.open(loaded, lock, only=["assistant-other"]) as inputs:
        inputs.arm("assistant", "other")
        with pytest.raises(IntegrityError, match="the recipe of"):
            inputs.arm("assistant", "half")


def test_another_version_of_a_tool_is_refused(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "tool_version", lambda tool: "99.0")
    with open_inputs(config) as inputs:
        with pytest.raises(IntegrityError, match=r"version of pytest-compsec.*is 99\.0, the lock"):
            inputs.arm("assistant", "half")
        inputs.arm("assistant", None)


def test_a_missing_tool_names_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CONFIG.replace(
        "prune: {method: magnitude, sparsity: 0.5}", "quantize: {method: bitsandbytes, bits: 8}"
    )
    path = write_suite(tmp_path, text)
    versions = {"bitsandbytes": "0.50.2"}
    monkeypatch.setattr(agreement, "tool_version", versions.get)
    pin(path)
    del versions["bitsandbytes"]
    with open_inputs(path) as inputs, pytest.raises(MissingExtraError, match=r"\[bitsandbytes\]"):
        inputs.arm("assistant", "half")
    with pytest.raises(MissingExtraError, match="pip install"):
        pin(path)


def test_prompt_sets_are_compared_with_the_lock(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("How do I bake bread?\n", encoding="utf-8")
    path = write_suite(tmp_path, CONFIG + "prompts: {mine: {file: mine.txt}}\n")
    pin(path)
    with open_inputs(path) as inputs:
        assert len(inputs.prompt_set("harmful").prompts) >= 800
        assert inputs.prompt_set("mine").prompts[0].text == "How do I bake bread?"
        with pytest.raises(ConfigError, match=r"no prompt set 'mien'; did you mean 'mine'"):
            inputs.prompt_set("mien")
    (tmp_path / "mine.txt").write_text("How do I bake cake?\n", encoding="utf-8")
    with open_inputs(path) as inputs, pytest.raises(IntegrityError, match="prompt set 'mine'"):
        inputs.prompt_set("mine")


def test_an_unlisted_prompt_set_is_refused(tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    pin(path)
    (tmp_path / "mine.txt").write_text("How do I bake bread?\n", encoding="utf-8")
    path.write_text(CONFIG + "prompts: {mine: {file: mine.txt}}\n", encoding="utf-8")
    with open_inputs(path) as inputs, pytest.raises(IntegrityError, match="not in the lock"):
        inputs.prompt_set("mine")


def test_the_judge_is_compared_with_the_lock(config: Path) -> None:
    judge = RefusalJudge()
    with open_inputs(config) as inputs:
        inputs.check_judge(judge.name, judge.version, judge.digest)
        with pytest.raises(IntegrityError, match="judge 'refusal' is not what the lock pins"):
            inputs.check_judge(judge.name, judge.version, "0" * 64)
        with pytest.raises(IntegrityError, match="judge 'refusal' is not what the lock pins"):
            inputs.check_judge(judge.name, "999", judge.digest)
        with pytest.raises(IntegrityError, match="judge 'other' is not in the lock"):
            inputs.check_judge("other", "1", judge.digest)


def test_a_run_writes_nothing_beside_the_config(config: Path) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.read_bytes())
            for path in config.parent.rglob("*")
            if path.is_file()
        }

    before = state()
    with open_inputs(config) as inputs:
        inputs.arm("assistant", "half")
        inputs.arm("assistant", "other")
        inputs.prompt_set("benign")
        inputs.recheck()
    assert state() == before


def test_names_that_do_not_exist(config: Path) -> None:
    with open_inputs(config) as inputs:
        with pytest.raises(ConfigError, match="no model 'assitant'; known: assistant"):
            inputs.arm("assitant", None)
        with pytest.raises(ConfigError, match="no variant 'int3'"):
            inputs.arm("assistant", "int3")


def test_the_header_gets_a_line(config: Path) -> None:
    with open_inputs(config) as inputs:
        line = inputs.lock_state_line()
        assert line.startswith(f"lock {inputs.lock_digest[:12]}: 8 files pinned")
        assert "8 of them UNVERIFIED" in line


def test_a_missing_model_directory_is_named(config: Path) -> None:
    (config.parent / "other").rename(config.parent / "moved")
    with open_inputs(config) as inputs, pytest.raises(ConfigError, match=r"\./other: there is no"):
        inputs.arm("assistant", "other")


def test_the_verified_inputs_load_neither_torch_nor_the_hub_client() -> None:
    code = (
        "import sys, pytest_compsec.models.verified\n"
        "print(sorted({'torch', 'transformers', 'huggingface_hub', 'pytest'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
