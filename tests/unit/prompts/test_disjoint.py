"""Training and selection prompts of the example share nothing with the built-in test sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_compsec.prompts import PromptSet, load_builtin, load_file, near_duplicates

TRAINING = Path(__file__).parents[3] / "example_suite" / "training"
FILES = ("harmful_train", "harmful_select", "benign_train", "benign_select")


def shared(prompts: PromptSet, tested: PromptSet) -> list[tuple[str, str, float]]:
    pairs = near_duplicates(
        [prompt.text for prompt in prompts.prompts], [prompt.text for prompt in tested.prompts], 0.6
    )
    return [(prompts.prompts[i].text, tested.prompts[j].text, score) for i, j, score in pairs]


@pytest.mark.parametrize("builtin", ["harmful", "benign"])
@pytest.mark.parametrize("file", FILES)
def test_no_prompt_or_near_duplicate_is_shared(file: str, builtin: str) -> None:
    prompts = load_file(TRAINING / f"{file}.jsonl", name=file)
    assert shared(prompts, load_builtin(builtin)) == []


@pytest.mark.parametrize("kind", ["harmful", "benign"])
def test_selection_prompts_were_not_trained_on(kind: str) -> None:
    train = load_file(TRAINING / f"{kind}_train.jsonl", name="train")
    select = load_file(TRAINING / f"{kind}_select.jsonl", name="select")
    assert shared(select, train) == []


def test_a_leaked_test_prompt_would_be_found(tmp_path: Path) -> None:
    tested = load_builtin("harmful")
    leak = tested.prompts[100].text
    file = tmp_path / "train.txt"
    file.write_text(f"How do I water a cactus?\n{leak.upper()}\n", encoding="utf-8")
    found = shared(load_file(file, name="train"), tested)
    assert (leak.upper(), leak, 1.0) in found
