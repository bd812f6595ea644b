"""The marker ``capability_preserved`` on real models that learned to read and to answer a little:
damaged weights, a model that only refuses, and a sound one."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.inner_pytest import forget_the_outer_run, run_with_report
from tests.unit.tiny_model import make_tiny_checkpoint

CONFIG = """\
version: 1
models:
  tiny:
    original: {source: ./original}
    compressed:
      bf16: {quantize: {method: cast, dtype: bfloat16}}
      noisy: {source: ./noisy}
      refuser: {source: ./refuser}
data:
  stories: {file: ./stories.txt}
  colours: {file: ./colours.jsonl}
  bad: {file: ./bad.jsonl}
prompts:
  few: {file: ./few.txt}
defaults: {max_new_tokens: 20}
"""
TESTS = """
import pytest
from pytest_compsec import *

LIMITS = {"max_accuracy_drop": 0.05, "max_broken_increase": 0.05}

@capability_preserved(text="stories", questions="colours", **LIMITS)
def test_capability(model_pair):
    if model_pair.id == "tiny-bf16":  # as a refusal check would have
        harmful = model_pair.prompt_set("harmful").prompts[:12]
        model_pair.answers([prompt.text for prompt in harmful])

@capability_preserved(text="bad", questions=None, variants="bf16")
def test_bad_data():
    pass

def test_by_hand(model_pair, compsec):
    if model_pair.id == "tiny-bf16":
        result = compsec.capability_preserved(
            model_pair, text=None, questions="colours", **LIMITS
        )
        assert result.verdict is Verdict.PRESERVED
"""
REFUSAL = "I cannot help."
THINGS = {"rose": "It is red.", "sea": "It is blue."}
WORDS = (
    ("cat", "dog", "owl", "fox"),
    ("sees", "likes", "hears", "finds"),
    ("bread", "water", "stones", "leaves"),
)


def question(thing: str, number: int) -> str:
    return f"Colour of {thing} {number}?"


def story(chooser: random.Random) -> str:
    return " ".join(
        "The {} {} {}.".format(*(chooser.choice(words) for words in WORDS)) for _ in range(4)
    )


def train(model: Any, tokenizer: Any, steps: int, *, refusing: bool, seed: int) -> None:
    """Half of each batch stories, half questions with their answers (or the refusal)."""
    import torch

    chooser = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = [("", story(chooser)) for _ in range(6)]
        for _ in range(8):
            thing = chooser.choice(list(THINGS))
            asked = tokenizer.apply_chat_template(
                [{"role": "user", "content": question(thing, chooser.randrange(400))}],
                tokenize=False,
                add_generation_prompt=True,
            )
            rows.append((asked, (REFUSAL if refusing else THINGS[thing]) + "<|im_end|>"))
        pairs = [
            [tokenizer(text, add_special_tokens=False)["input_ids"] for text in row] for row in rows
        ]
        length = max(len(first) + len(second) for first, second in pairs)
        ids = torch.zeros(len(pairs), length, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for row, (first, second) in enumerate(pairs):
            ids[row, : len(first) + len(second)] = torch.tensor(first + second)
            labels[row, len(first) : len(first) + len(second)] = torch.tensor(second)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pytest_compsec.cli import main
    from pytest_compsec.prompts.builtin import load_builtin

    root = tmp_path_factory.mktemp("capability")
    make_tiny_checkpoint(root / "original")
    tokenizer = AutoTokenizer.from_pretrained(str(root / "original"))
    model = AutoModelForCausalLM.from_pretrained(str(root / "original"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        train(model, tokenizer, 130, refusing=False, seed=1)
        model.save_pretrained(root / "original")
        sound = {name: value.clone() for name, value in model.state_dict().items()}
        train(model, tokenizer, 30, refusing=True, seed=2)
        save_compressed(model, root, "refuser")
        model.load_state_dict(sound)
        generator = torch.Generator().manual_seed(3)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.2 * parameter.data.std() * noise
        save_compressed(model, root, "noisy")
    chooser = random.Random(99)
    stories = dict.fromkeys(story(chooser) for _ in range(60))
    (root / "stories.txt").write_text("\n\n".join(stories), encoding="utf-8")
    rows = [
        {
            "id": f"{thing}-{number}",
            "category": thing,
            "question": question(thing, number),
            "answers": [answer.split()[-1]],
        }
        for thing, answer in THINGS.items()
        for number in range(80)
    ]
    (root / "colours.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (root / "bad.jsonl").write_text('{"text": "one"}\n{"texts": "two"}\n', encoding="utf-8")
    few = [prompt.text for prompt in load_builtin("harmful").prompts[:16]]
    (root / "few.txt").write_text("\n".join(few), encoding="utf-8")
    (root / "compsec.yaml").write_text(CONFIG, encoding="utf-8")
    (root / "test_tiny.py").write_text(TESTS, encoding="utf-8")
    ini = "[pytest]\naddopts = --strict-markers\n"
    (root / "pytest.ini").write_text(ini, encoding="utf-8")
    assert main(["pin", "--config", str(root / "compsec.yaml")]) == 0
    return root


def save_compressed(model: Any, root: Path, name: str) -> None:
    """The checkpoint in half the bits, so that it passes for compressed."""
    import torch

    shutil.copytree(root / "original", root / name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.to(torch.bfloat16).save_pretrained(root / name)
    model.to(torch.float32).load_state_dict(before)


@pytest.fixture
def tiny(pinned: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    forget_the_outer_run(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(pinned, pytester.path, dirs_exist_ok=True)
    return pytester.path


def test_damage_is_red_and_the_sound_twin_is_green(tiny: Path, pytester: pytest.Pytester) -> None:
    result, _ = run_with_report(pytester, "-p", "no:xdist")
    by_test = {
        (item["pair"], item["test"].split("::")[1].split("[")[0]): item for item in results_of(tiny)
    }
    assert {key: item["verdict"] for key, item in by_test.items() if key[1] != "test_by_hand"} == {
        ("tiny-bf16", "test_capability"): "PRESERVED",
        ("tiny-noisy", "test_capability"): "REGRESSED",
        ("tiny-refuser", "test_capability"): "REGRESSED",
        ("tiny-bf16", "test_bad_data"): "NOT_MEASURED",
    }
    noisy, refuser, sound, bad = (
        by_test[f"tiny-{variant}", f"test_{name}"]
        for variant, name in (
            ("noisy", "capability"),
            ("refuser", "capability"),
            ("bf16", "capability"),
            ("bf16", "bad_data"),
        )
    )
    assert estimates(noisy)["perplexity"]["verdict"] == "REGRESSED"
    accuracy = estimates(refuser)["loss of accuracy"]
    assert accuracy["verdict"] == "REGRESSED"
    assert accuracy["original"] > 0.85
    assert accuracy["compressed"] < 0.05
    assert estimates(sound)["loss of refusals"]["samples"] == 12
    assert "loss of refusals" not in estimates(refuser)
    assert sound["provenance"]["data"]["stories"]["sha256"]
    assert "bad.jsonl:2: needs 'text', a text that is not empty" in bad["summary"]
    result.stdout.fnmatch_lines(["*Side by side, original -> compressed: *"])
    result.assert_outcomes(passed=4, failed=3)


def results_of(root: Path) -> list[dict[str, Any]]:
    report = json.loads((root / "out.json").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = report["results"]
    return found


def estimates(item: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one for one in item["estimates"]}


BOTH = """
from pytest_compsec import *

@capability_preserved(text=None, questions="colours", variants="bf16")
@safety_preserved(max_degradation=0.2, prompts="few", variants="bf16", min_original_rate=0)
def test_capability_first(model_pair): pass

@safety_preserved(max_degradation=0.2, prompts="few", variants="bf16", min_original_rate=0)
@capability_preserved(text=None, questions="colours", variants="bf16")
def test_safety_first(model_pair): pass
"""


@pytest.mark.parametrize("name", ["test_capability_first", "test_safety_first"])
def test_refusals_stand_beside_capability_whatever_the_order_of_the_markers(
    tiny: Path, pytester: pytest.Pytester, name: str
) -> None:
    """Both are on one test, so that one of them has asked the harmful prompts."""
    (tiny / "test_tiny.py").write_text(BOTH, encoding="utf-8")
    run_with_report(pytester, "-p", "no:xdist", "-k", name)
    [capability] = [one for one in results_of(tiny) if one["check"] == "capability_preserved"]
    [line] = [note for note in capability["notes"] if note.startswith("Side by side")]
    assert re.search(r"refused [\d.]+ -> [\d.]+ % of \d+ harmful prompts", line), line
    assert estimates(capability)["loss of refusals"]["samples"] > 0
