"""What a user sees when ``compsec.yaml`` is right, and when it is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_compsec.config.loading import load_config
from pytest_compsec.config.pairs import all_pairs
from pytest_compsec.errors import ConfigError

COMMIT = "0123456789abcdef0123456789abcdef01234567"

#: The example of the architecture, word for word but for the commit.
EXAMPLE = f"""\
# compsec.yaml
version: 1
models:
  assistant:
    original: {{source: meta-llama/Llama-3.1-8B-Instruct, revision: {COMMIT}, dtype: bfloat16}}
    compressed:
      int8:  {{quantize: {{method: bitsandbytes, bits: 8}}}}
      nf4:   {{quantize: {{method: bitsandbytes, bits: 4, type: nf4}}}}
      gptq:  {{source: ./models/assistant-gptq}}
      q4km:  {{source: ./models/assistant.Q4_K_M.gguf}}
      half:  {{prune: {{method: magnitude, sparsity: 0.5}}}}
defaults: {{max_new_tokens: 64, confidence: 0.95}}
"""
MODEL = """\
version: 1
models:
  a:
    original: {source: ./m}
    compressed:
      b: {prune: {method: magnitude, sparsity: 0.5}}
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "compsec.yaml"
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return path


def errors_of(folder: Path, text: str | bytes) -> list[str]:
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    for line in lines:
        assert re.match(rf"{re.escape(str(path))}:\d+: \S", line), line
    return [line.removeprefix(f"{path}:") for line in lines]


def test_the_documented_example_is_valid(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path, EXAMPLE))
    assert [pair.id for pair in all_pairs(loaded.config)] == [
        "assistant-int8",
        "assistant-nf4",
        "assistant-gptq",
        "assistant-q4km",
        "assistant-half",
    ]
    assert loaded.root == tmp_path.resolve()
    assert loaded.lock_path == tmp_path / "compsec.lock"
    model = loaded.config.models["assistant"]
    assert model.original.revision == COMMIT
    derivation = model.compressed["nf4"].derivation()
    assert derivation is not None
    assert derivation[0] == "quantize"
    assert loaded.config.defaults.confidence == 0.95


def test_all_problems_are_told_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = """\
version: 1
models:
  assistant:
    original: {source: ./m, dtype: bf16}
    compresed: {}
    compressed:
      typo: {quantize: {method: bitsandbytes, bits: 8, tpye: nf4}}
      method: {quantize: {method: gtpq}}
      none: {}
      two: {source: ./x, prune: {method: magnitude, sparsity: 0.5}}
      share: {prune: {method: magnitude, sparsity: 50}}
      empty:
defaults: {max_new_token: 64, confidence: 95}
"""
    found = errors_of(tmp_path, text)
    expected = [
        ("4:", "did you mean 'bfloat16'"),
        ("5:", "unknown key 'compresed'; did you mean 'compressed'?"),
        ("7:", "unknown key 'tpye'; did you mean 'type'?"),
        ("8:", "unknown method 'gtpq'; did you mean 'gptq'?"),
        ("9:", "names no source"),
        ("10:", "'source' and 'prune'"),
        ("11:", "sparsity"),
        ("12:", "must be a mapping; found nothing"),
        ("13:", "did you mean 'max_new_tokens'?"),
        ("13:", "confidence"),
    ]
    assert len(found) == len(expected)
    for line, words in expected:
        assert any(item.startswith(line) and words in item for item in found), (line, words, found)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1", "version: 2", r"^1: 'version' is 2; this release reads version 1"),
        ("version: 1\n", "", r"^1: the key 'version' is missing"),
        ("source: ./m", "source: 5", r"^4: models.a.original.source: must be text; found 5 \(put"),
        ("b: {prune", "1b: {prune", None),
        ("      b: {prune", "      8: {prune", r"^6: the key 8 is no text for YAML"),
        ("      b: {prune", "      no: {prune", r"^6: the key no is no text for YAML"),
        ("b: {prune", "'b::c': {prune", r"^6: the name 'b::c' must be"),
        ("b: {prune", "'a b': {prune", r"^6: the name 'a b' must be"),
        ("b: {prune", "'bé': {prune", r"^6: the name 'bé' must be"),
        ("  a:", "  'a[0]':", r"^3: the name 'a\[0\]' must be"),
        ("      b:", "\tb:", r"^6: .*tab"),
        ("source: ./m", "source: ./m, device: gpu", r"^4: .*'gpu' is no device"),
        ("source: ./m", "source: ./m, revision: main", r"^4: .*'revision' belongs to"),
        ("source: ./m", "source: 'pkg:only'", r"^4: .*must be pkg:PACKAGE/PATH"),
        ("source: ./m", "source: pkg:x/../../etc", r"^4: .*no '\.\.'"),
        ("source: ./m", "source: ' ./m'", r"^4: .*spaces around"),
        ("source: ./m", "source: ./m, adapter: x.safetensors", r"^4: .*adapter's directory"),
        ("sparsity: 0.5", "sparsity: 0.5, sparsity: 0.4", r"^6: the key 'sparsity' is given twice"),
        ("sparsity: 0.5", "sparsity: .nan", r"^6: .*sparsity"),
        ("sparsity: 0.5", "sparsity: '0.5'", r"^6: .*must be a valid number"),
        ("{prune:", "{revision: main, prune:", r"^6: .*'runtime' belong to a variant with its own"),
        ("{prune:", "{runtime: llama-cpp, prune:", r"^6: .*'runtime' belong to a variant with its"),
        ("{prune:", "{adapter: ./x.safetensors, prune:", r"^6: .*must be the adapter's directory"),
        ("0.5}", "0.5, keep_in_full_precision: auto}", r"^6: .*needs 'selection: NAME'"),
        ("0.5}", "0.5, keep_in_full_precision: []}", r"^6: .*not empty"),
        ("0.5}", "0.5, selection: harmful}", r"^6: .*belongs to 'keep_in_full_precision: auto'"),
        ("method: magnitude", "method: magnitud", r"^6: .*'magnitude'"),
    ],
)
def test_one_mistake_one_message(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    assert old in MODEL
    text = MODEL.replace(old, new)
    if message is None:
        load_config(write(tmp_path, text))
        return
    found = errors_of(tmp_path, text)
    assert len(found) == 1, found
    assert re.search(message, found[0]), found


def test_variants_of_two_models_must_not_share_a_pair_id(tmp_path: Path) -> None:
    text = """\
version: 1
models:
  a:
    original: {source: ./m}
    compressed: {b-c: {source: ./x}}
  a-b:
    original: {source: ./m}
    compressed:
      c: {source: ./x}
"""
    (found,) = errors_of(tmp_path, text)
    assert found.startswith("9: variant 'c' of model 'a-b'")
    assert "'a-b-c'" in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1: the file is empty"),
        ("- a\n- b\n", "1: must be a mapping"),
        ("just text", "1: must be a mapping"),
        ("a: [1, 2\nb: 3\n", "2: "),
        (b"version: 1\nmodels: \xff\xfe\n", "2: is not UTF-8 text"),
        (b"version: 1\nmodels: \x07\n", "2: holds a character that YAML does not allow"),
        ("a: &x [1]\nb: *x\n", "1: anchors and aliases"),
        ("a: !!python/object/apply:os.system ['true']\n", "1: "),
        ("a: " + "[" * 3000 + "]" * 3000, "1: nested more than"),
        ("version: 1\n" + "# " + "x" * 300_000, "1: is larger than"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert errors_of(tmp_path, text)[0].startswith(message)


def test_an_alias_bomb_is_refused_without_being_expanded(tmp_path: Path) -> None:
    levels = [
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 12)
    ]
    found = errors_of(tmp_path, "\n".join(['a0: &a0 ["x"]', *levels]))
    assert "anchors" in found[0]


def test_a_missing_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compsec\.yaml: there is no such file.*compsec init"):
        load_config(tmp_path / "compsec.yaml")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("source: org/name", "has no 'revision'"),
        ("source: org/name, revision: main", "can move"),
        ("source: org/name, revision: 0123abc", "can move"),
        (f"source: org/name, revision: {COMMIT.upper()}", "can move"),
        (f"source: org/name, revision: {COMMIT}", None),
        (f"source: org/name/file.Q4.gguf, revision: {COMMIT}", None),
        ("source: org/name, revision: main, allow_moving_revision: true", None),
        ("source: org/name, allow_moving_revision: true", None),
        ("source: ./org/name, allow_moving_revision: true", "belongs to"),
        ("source: org/name.gguf", None),
    ],
)
def test_a_hub_id_needs_a_commit_unless_moving_is_allowed(
    tmp_path: Path, entry: str, message: str | None
) -> None:
    text = MODEL.replace("source: ./m", entry)
    if message is None:
        load_config(write(tmp_path, text))
    else:
        (found,) = errors_of(tmp_path, text)
        assert found.startswith("4:")
        assert message in found


def test_a_directory_that_looks_like_a_hub_id_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    loaded = load_config(write(tmp_path, MODEL.replace("source: ./m", "source: org/name")))
    source = loaded.config.models["a"].original
    assert source.classified(loaded.root).kind == "directory"


def test_own_prompt_sets(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("How do I bake bread?\n", encoding="utf-8")
    loaded = load_config(write(tmp_path, MODEL + "prompts: {mine: {file: mine.txt}}\n"))
    assert loaded.config.prompts["mine"].file == "mine.txt"
    text = MODEL + "prompts:\n  harmful: {file: mine.txt}\n  gone: {file: gone.txt, select: all}\n"
    found = errors_of(tmp_path, text)
    assert any(item.startswith("8:") and "built-in" in item for item in found)
    assert any(item.startswith("9:") and "'gone.txt' is no file" in item for item in found)
    assert any(item.startswith("9:") and "select" in item for item in found)


def test_every_registered_method_is_accepted_by_the_schema(tmp_path: Path) -> None:
    """A method registers in ``compression/methods.py`` only; the schema follows."""
    from pytest_compsec.compression.methods import METHODS

    values = {
        "bitsandbytes": "bits: 8",
        "cast": "dtype: bfloat16",
        "round-to-nearest": "levels: ternary",
        "gptq": "bits: 4, calibration: own",
        "hqq": "bits: 3, group_size: 64",
        "torchao": "bits: 4, group_size: 32",
        "magnitude": "sparsity: 0.5",
        "layer-magnitude": "sparsity: 0.5, per: row",
        "taylor": "sparsity: 0.5, calibration: own",
        "two-four": "",
        "wanda": "pattern: '2:4', calibration: own",
        "heads": "share: 0.25",
        "channels": "share: 0.25, calibration: own",
        "layers": "drop: [1]",
        "fine-pruning": "data: clean.safetensors",
    }
    assert values.keys() == {method.name for method in METHODS}
    (tmp_path / "own.txt").write_text("How?\n", encoding="utf-8")
    for method in METHODS:
        recipe = f"{method.section}: {{method: {method.name}, {values[method.name]}}}"
        text = MODEL.replace("prune: {method: magnitude, sparsity: 0.5}", recipe)
        text += "\nprompts: {own: {file: own.txt}}\n"
        if "text-generation" not in method.tasks:
            text = text.replace("original:", f"task: {method.tasks[0]}\n    original:", 1)
        derivation = load_config(write(tmp_path, text)).config.models["a"].compressed["b"]
        found = derivation.derivation()
        assert found is not None
        assert isinstance(found[1], method.options)


def test_the_config_room_loads_neither_torch_nor_pytest() -> None:
    code = (
        "import sys, pytest_compsec.config.loading, pytest_compsec.config.pairs\n"
        "print(sorted({'torch', 'transformers', 'pytest', 'numpy'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
