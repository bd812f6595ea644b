"""What a recipe looks at (prompt sets, layers found by `compsec pin`, an adapter) is pinned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pytest_compsec.choosing as choosing
from pytest_compsec.errors import CompsecError, ConfigError, IntegrityError, MissingExtraError
from pytest_compsec.models import agreement
from pytest_compsec.models.lock import Lock, read_lock
from pytest_compsec.models.pinning import pin
from tests.unit.models.tiny_files import open_inputs, write_model, write_suite

AUTO = """\
version: 1
models:
  assistant:
    original: {source: ./model}
    compressed:
      half: {prune: {method: magnitude, sparsity: 0.5,
                     keep_in_full_precision: auto, selection: own}, adapter: ./lora}
      plain: {prune: {method: magnitude, sparsity: 0.5}}
prompts:
  own: {file: own.txt}
"""


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counts the searches, which would load models, and lets each find one layer."""
    made: list[str] = []

    def found(_loaded: object, lock: Lock, model: str, variant: str, _notify: object) -> list[str]:
        recipe = lock.models[model].variants[variant].recipe
        assert recipe is not None
        made.append(recipe.found["basis"])
        return ["model.layers.0.mlp.down_proj"]

    monkeypatch.setattr(choosing, "_search", found)
    return made


def project(root: Path, text: str = AUTO) -> Path:
    (root / "own.txt").write_text("How?\nWhy?\n", encoding="utf-8")
    path = write_suite(root, text)
    write_model(root / "lora", b"\x02" * 64)
    (root / "lora" / "model.safetensors").rename(root / "lora" / "adapter_model.safetensors")
    return path


def test_what_was_found_is_in_the_lock_and_in_the_arm(tmp_path: Path, searches: list[str]) -> None:
    path = project(tmp_path)
    result = pin(path)
    assert len(searches) == 1
    assert any("kept in full precision" in line for line in result.changes)
    with open_inputs(path) as inputs:
        half, plain = inputs.arm("assistant", "half"), inputs.arm("assistant", "plain")
        assert half.recipe is not None
        assert half.recipe.keeps == ("model.layers.0.mlp.down_proj",)
        assert half.compressed_adapter is not None
        assert half.adapter is None
        assert plain.recipe is not None
        assert plain.recipe.keeps == ()
        assert half.weights_digest != plain.weights_digest


def test_it_is_found_once_as_long_as_nothing_changes(tmp_path: Path, searches: list[str]) -> None:
    path = project(tmp_path)
    pin(path)
    assert pin(path).changes == ()
    assert len(searches) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "own.txt").write_text("How?\nWhen?\n"),
        lambda root: (root / "compsec.yaml").write_text(AUTO.replace("0.5,", "0.4,")),
        lambda root: (root / "model" / "config.json").write_text('{"model_type": "qwen2"}'),
    ],
    ids=["selection", "sparsity", "original"],
)
def test_it_is_found_anew_when_what_it_was_found_with_changes(
    tmp_path: Path, searches: list[str], change: Callable[[Path], object]
) -> None:
    path = project(tmp_path)
    pin(path)
    change(tmp_path)
    pin(path)
    assert len(set(searches)) == 2


def test_a_search_that_finds_nothing_writes_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> list[str]:
        raise CompsecError("no choice of layers passes")

    monkeypatch.setattr(choosing, "_search", nothing)
    path = project(tmp_path)
    with pytest.raises(CompsecError, match="no choice"):
        pin(path)
    assert not path.with_name("compsec.lock").exists()


def test_another_selection_set_is_refused(tmp_path: Path, searches: list[str]) -> None:
    path = project(tmp_path)
    pin(path)
    (tmp_path / "own.txt").write_text("How?\nWhen?\n", encoding="utf-8")
    with open_inputs(path) as inputs:
        with pytest.raises(IntegrityError, match="'own'"):
            inputs.arm("assistant", "half")
        inputs.arm("assistant", "plain")  # does not look at it


def test_a_lock_whose_recipe_has_other_prompts_is_refused(
    tmp_path: Path, searches: list[str]
) -> None:
    path = project(tmp_path)
    lock_path = path.with_name("compsec.lock")
    result = pin(path)
    recipe = result.lock.models["assistant"].variants["half"].recipe
    assert recipe is not None
    line = f'selection = "{recipe.inputs["selection"]}"'
    text = lock_path.read_text("utf-8")
    assert line in text
    lock_path.write_text(text.replace(line, f'selection = "{"0" * 64}"'), encoding="utf-8")
    with open_inputs(path) as inputs, pytest.raises(IntegrityError, match="'selection' of"):
        inputs.arm("assistant", "half")


def test_a_lock_without_the_found_layers_is_refused(tmp_path: Path, searches: list[str]) -> None:
    path = project(tmp_path)
    pin(path)
    lock_path = path.with_name("compsec.lock")
    text = lock_path.read_text("utf-8")
    start = text.index("[models.assistant.variants.half.recipe.found]")
    end = text.index("\n[", start)
    lock_path.write_text(text[:start] + text[end + 1 :], encoding="utf-8")
    with pytest.raises(IntegrityError, match="not in the lock"):
        open_inputs(path)


def test_an_adapter_of_a_derived_variant_is_pinned_by_its_bytes(
    tmp_path: Path, searches: list[str]
) -> None:
    path = project(tmp_path)
    pin(path)
    weights = tmp_path / "lora" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with open_inputs(path) as inputs, pytest.raises(IntegrityError, match="adapter_model"):
        inputs.arm("assistant", "half")
    without = AUTO.replace(", adapter: ./lora", "")
    path.write_text(without, encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"adapter of 'assistant-half' is none.*\./lora"):
        open_inputs(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("harmful", r":6: models\.assistant\.compressed\.half: .*from which verdicts come"),
        ("others", r":6: .*'selection: others' is no set under 'prompts' \(there: own\)"),
    ],
)
def test_a_selection_must_be_a_set_of_ones_own(tmp_path: Path, name: str, message: str) -> None:
    path = project(tmp_path, AUTO.replace("selection: own", f"selection: {name}"))
    with pytest.raises(ConfigError, match=message):
        pin(path)


RUNTIME = """\
version: 1
models:
  assistant:
    original: {source: ./model}
    compressed:
      deployed: {source: ./model.gguf, runtime: llama-cpp}
"""


def runtime_project(root: Path, monkeypatch: pytest.MonkeyPatch, version: str | None) -> Path:
    real = agreement.tool_version
    for module in ("agreement", "verified"):
        monkeypatch.setattr(
            f"pytest_compsec.models.{module}.tool_version",
            lambda tool: version if tool == agreement.LLAMA_CPP else real(tool),
        )
    path = write_suite(root, RUNTIME)
    (root / "model.gguf").write_bytes(b"GGUF" + bytes(60))
    return path


def test_a_runtime_is_pinned_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runtime_project(tmp_path, monkeypatch, "0.3.16")
    pin(path)
    runtime = read_lock(path.with_name("compsec.lock")).models["assistant"].variants["deployed"]
    assert runtime.runtime is not None
    assert runtime.runtime.tools == {"llama-cpp-python": "0.3.16"}
    with open_inputs(path) as inputs:
        arm = inputs.arm("assistant", "deployed")
        assert arm.runtime == runtime.runtime
    monkeypatch.setattr("pytest_compsec.models.verified.tool_version", lambda tool: "0.3.17")
    with open_inputs(path) as inputs, pytest.raises(IntegrityError, match=r"0\.3\.17"):
        inputs.arm("assistant", "deployed")
    path.write_text(RUNTIME.replace(", runtime: llama-cpp", ""), encoding="utf-8")
    with pytest.raises(IntegrityError, match="runtime of 'assistant-deployed' is none"):
        open_inputs(path)


def test_a_runtime_that_is_not_installed_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = runtime_project(tmp_path, monkeypatch, None)
    with pytest.raises(MissingExtraError, match="llama-cpp"):
        pin(path)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("./model.gguf", "./other", "runs .gguf files"),
        ("runtime: llama-cpp", "runtime: llama-cpp, adapter: ./model", "leave 'adapter' out"),
        ("runtime: llama-cpp", "runtime: vllm", "'llama-cpp'"),
    ],
)
def test_a_runtime_that_cannot_run_it_is_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    after: str,
    message: str,
) -> None:
    path = runtime_project(tmp_path, monkeypatch, "0.3.16")
    path.write_text(RUNTIME.replace(before, after), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        pin(path)


def test_a_model_is_not_tested_with_the_prompts_that_it_was_fitted_to(
    tmp_path: Path, searches: list[str]
) -> None:
    """Nor with a copy of them under another name, in other writing."""
    from pytest_compsec.suite import open_suite

    path = project(tmp_path, AUTO + "  copy: {file: copy.txt}\n  apart: {file: apart.txt}\n")
    (tmp_path / "copy.txt").write_text("Whither?\nHOW\n", encoding="utf-8")
    (tmp_path / "apart.txt").write_text("Whither?\n", encoding="utf-8")
    pin(path)
    with open_suite(path) as suite:
        half, plain = suite.pair("assistant-half"), suite.pair("assistant-plain")
        for name in ("own", "copy"):
            with pytest.raises(ConfigError, match=r"was fitted to the prompt set 'own'"):
                half.prompt_set(name)
            assert plain.prompt_set(name).name == name
        assert half.prompt_set("apart").name == "apart"
