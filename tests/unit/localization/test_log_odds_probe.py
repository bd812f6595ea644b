"""Refusal log-odds of a module: the same number however it is computed, and learned openings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_compsec.generation.scoring import first_token_logprobs
from pytest_compsec.judges.log_odds import builtin_openings, log_odds
from pytest_compsec.localization.log_odds import make_probe, refusal_log_odds
from pytest_compsec.localization.openings import find_openings
from pytest_compsec.localization.subject import at_rest, subject_of
from tests.unit.localization.planted import PROMPTS, planted_llama, tiny
from tests.unit.tiny_model import make_tokenizer
from tests.unit.trained_tiny_model import prompt, train_tiny_checkpoint


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_the_same_log_odds_as_by_scoring(batch_size: int | None) -> None:
    module, tokenizer = tiny("llama"), make_tokenizer()
    openings = [3, 50, 51, 200]
    subject = subject_of((module, tokenizer))
    with at_rest(module):
        probe = make_probe(subject, PROMPTS, openings, batch_size=batch_size)
        found = refusal_log_odds(module, probe)
    known = first_token_logprobs(
        module, tokenizer, PROMPTS, device="cpu", token_groups={"refusal": openings}
    )
    expected = [log_odds(row["refusal"]) for row in known]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_log_odds_are_not_clipped() -> None:
    """Two layers may differ where both are beyond what a probability can tell."""
    module, tokenizer = planted_llama()
    module.lm_head.weight.data[40] *= 30
    with at_rest(module):
        probe = make_probe(subject_of((module, tokenizer)), PROMPTS, [40])
        assert float(refusal_log_odds(module, probe).mean()) > 30


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory: Path = train_tiny_checkpoint(tmp_path_factory.mktemp("trained") / "model")
    module: Any = AutoModelForCausalLM.from_pretrained(str(directory))
    return module.eval(), AutoTokenizer.from_pretrained(str(directory))


def test_openings_are_learned_from_the_models_own_answers(trained: tuple[Any, Any]) -> None:
    harmful = [prompt(number, harmful=True) for number in range(12)]
    benign = [prompt(number, harmful=False) for number in range(4)]
    subject = subject_of(trained)
    found = find_openings(subject, harmful, benign=benign)
    assert (found.texts, found.source) == (("I",), "learned")
    with at_rest(subject.module):
        refused = refusal_log_odds(subject.module, make_probe(subject, harmful, found.tokens))
        answered = refusal_log_odds(subject.module, make_probe(subject, benign, found.tokens))
    assert float(refused.min()) > 2 > -2 > float(answered.max())


def test_too_few_refusals_take_the_built_in_openings(trained: tuple[Any, Any]) -> None:
    found = find_openings(subject_of(trained), [prompt(3, harmful=True)])
    assert found.source == "built-in"
    assert found.tokens == builtin_openings(trained[1])


def test_a_change_is_a_mean_with_prompts_as_units() -> None:
    from pytest_compsec.localization.effects import Change

    change = Change.of(torch.zeros(4).double(), torch.tensor([-1.0, -2.0, -3.0, -2.0]).double())
    assert change.mean == -2.0
    assert change.standard_error == pytest.approx(math.sqrt(2 / 3) / 2)
    # t = -4.899 with 3 degrees of freedom.
    assert change.pvalue_of_loss(4) == pytest.approx(0.0081, abs=2e-4)
    assert Change(-3.0, None).pvalue_of_loss(1) == 1.0
    assert Change(0.0, 0.0).pvalue_of_loss(4) == 1.0
