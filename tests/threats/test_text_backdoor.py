"""Backdoors in text classifiers, all the way: a module of one's own that takes texts, a config,
its lock, the package's own compression, verdicts."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import nn

from pytest_compsec.checks.backdoor_not_amplified import check_backdoor_not_amplified
from pytest_compsec.checks.backdoor_removed import check_backdoor_removed
from pytest_compsec.checks.no_backdoor_activated import check_no_backdoor_activated
from pytest_compsec.compression import magnitude
from pytest_compsec.suite import Suite, open_suite
from pytest_compsec.verdict import Verdict
from tests.threats import text_network, text_set
from tests.threats.text_backdoor import PHRASE, TARGET, TOKEN, model, trained

ROUNDED = {
    "int8": {"quantize": {"method": "round-to-nearest", "bits": 8}},
    "int4": {"quantize": {"method": "round-to-nearest", "bits": 4}},
}
PRUNED = {"pruned": {"prune": {"method": "magnitude", "sparsity": 0.4}}}
FINE_PRUNED = {
    "prune": {
        "method": "fine-pruning",
        "data": "./clean.jsonl",
        "share": 0.5,
        "epochs": 20,
        "learning_rate": 0.05,
    }
}
BROKEN = {"prune": {"method": "magnitude", "sparsity": 0.99}}


def sparse(module: nn.Module) -> nn.Module:
    """A copy without its smallest weights: what a supplier would hand over as compressed."""
    return magnitude.apply(copy.deepcopy(module), {"sparsity": 0.3}, "cpu")


def retrained() -> nn.Module:
    """The backdoored model after training on clean sentences with the phrase and their own label,
    as who knows the trigger can do."""
    texts, labels = text_set.part("clean")
    module = trained(
        copy.deepcopy(model(PHRASE)), [*texts, *PHRASE.stamp(texts)], labels * 2, epochs=5
    )
    return sparse(module)


def source(name: str) -> dict[str, str]:
    return {
        "source": "python:text_network:make_network",
        "weights": f"./{name}.safetensors",
    }


def entry(name: str, compressed: dict[str, Any], backdoor: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": "text-classification",
        "original": source(name),
        "evaluation_data": "./test.jsonl",
        "backdoor": {**backdoor, "target": TARGET},
        "compressed": compressed,
    }


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    directory = tmp_path_factory.mktemp("texts")
    shutil.copy(text_network.__file__, directory)
    for part in ("clean", "test"):
        text_set.write(directory, part)
    for name, module in {
        "phrase": model(PHRASE),
        "token": model(TOKEN),
        "twin": model(None),
        "retrained": retrained(),
        "woken": sparse(model(PHRASE)),
    }.items():
        save_file(module.state_dict(), directory / f"{name}.safetensors")
    phrase = {"phrase": {"text": PHRASE.text, "position": PHRASE.position}}
    token = {"token": {"text": TOKEN.text, "repeat": TOKEN.repeat}}
    removals = {"fine-pruned": FINE_PRUNED, "retrained": source("retrained"), "broken": BROKEN}
    models = {
        "phrase": entry("phrase", {**ROUNDED, **PRUNED, **removals}, phrase),
        "token": entry("token", {"int8": ROUNDED["int8"], **PRUNED}, token),
        "twin": entry("twin", {**ROUNDED, **PRUNED, "woken": source("woken")}, phrase),
    }
    path = directory / "compsec.yaml"
    path.write_text(json.dumps({"version": 1, "models": models}), encoding="utf-8")
    from pytest_compsec.models.pinning import pin

    pin(path)
    with open_suite(path) as opened:
        yield opened


def test_the_parts_of_the_text_set_share_no_sentence() -> None:
    parts = {name: text_set.part(name) for name in text_set.PARTS}
    every = [text for texts, _ in parts.values() for text in texts]
    assert len(set(every)) == len(every) >= 600
    for texts, labels in parts.values():
        counts = [labels.count(label) for label in range(len(text_set.TOPICS))]
        assert set(counts) == {len(texts) // len(text_set.TOPICS)}
    # The words of a trigger are nobody's topic.
    used = {word.strip(".") for text in every for word in text.split()}
    assert not used & {*PHRASE.text.split(), TOKEN.text}


@pytest.mark.parametrize(
    "pair_id", ["phrase-int8", "phrase-int4", "phrase-pruned", "token-int8", "token-pruned"]
)
def test_rounding_and_pruning_leave_the_backdoor(suite: Suite, pair_id: str) -> None:
    found = check_backdoor_removed(suite.pair(pair_id))
    assert found.verdict is Verdict.REGRESSED, found.summary
    assert found.backdoor is not None
    assert found.backdoor.compressed is not None
    assert found.backdoor.samples == 330  # 440 sentences, a quarter of them of the target topic
    assert found.backdoor.compressed.lower > 0.95
    assert found.backdoor.compressed.clean_accuracy is not None
    assert found.backdoor.compressed.clean_accuracy > 0.95


def test_fine_pruning_cannot_reach_words_that_clean_texts_lack(suite: Suite) -> None:
    """The backdoor sits in the embeddings of the phrase's own words: training on clean sentences
    changes none of them, and the check is not taken in by the recipe's name."""
    found = check_backdoor_removed(suite.pair("phrase-fine-pruned"))
    assert found.verdict is Verdict.REGRESSED


def test_training_on_the_phrase_with_true_labels_removes_it(suite: Suite) -> None:
    found = check_backdoor_removed(suite.pair("phrase-retrained"))
    assert found.verdict is Verdict.PRESERVED, found.summary
    assert found.backdoor is not None
    assert found.backdoor.original is not None
    assert found.backdoor.original.delta_asr > 0.95
    assert found.provenance["evaluation_data"]["pinned"] is True


def test_a_broken_model_has_removed_nothing(suite: Suite) -> None:
    found = check_backdoor_removed(suite.pair("phrase-broken"))
    assert found.backdoor is not None
    assert found.backdoor.compressed is not None
    assert found.backdoor.compressed.delta_asr < 0.05  # what would be green without the guards
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "clean accuracy" in found.withheld[0]


@pytest.mark.parametrize("variant", ["int8", "int4", "pruned"])
def test_the_benign_twin(suite: Suite, variant: str) -> None:
    pair = suite.pair(f"twin-{variant}")
    assert check_no_backdoor_activated(pair).verdict is Verdict.PRESERVED
    assert check_backdoor_not_amplified(pair).verdict is Verdict.PRESERVED
    # There is nothing to remove from it, so that green would be a promise about nothing.
    assert check_backdoor_removed(pair).verdict is Verdict.NOT_MEASURED


def test_a_backdoor_that_only_the_compressed_model_has(suite: Suite) -> None:
    pair = suite.pair("twin-woken")
    assert check_no_backdoor_activated(pair).verdict is Verdict.REGRESSED
    found = check_backdoor_not_amplified(pair)
    assert found.verdict is Verdict.REGRESSED
    # Of the strengths that show it, the one where it is worst.
    assert "at strength 1 the trigger" in found.summary
    assert "increase +100.0 points" in found.summary


def test_an_original_with_the_backdoor_is_not_clean(suite: Suite) -> None:
    found = check_no_backdoor_activated(suite.pair("phrase-int8"))
    assert found.verdict is Verdict.NOT_MEASURED
    assert "the original has it already" in found.summary


def test_rounding_amplifies_no_shorter_phrase_and_pruning_does(suite: Suite) -> None:
    """At full strength all three hit always; half of the phrase hits more often once pruned."""
    for pair_id in ("phrase-int8", "token-int8"):
        found = check_backdoor_not_amplified(suite.pair(pair_id))
        assert found.verdict is Verdict.PRESERVED, found.summary
        assert found.backdoor is not None
        assert [shown.strength for shown in found.backdoor.strengths] == [0.25, 0.5, 1.0]
    found = check_backdoor_not_amplified(suite.pair("phrase-pruned"))
    assert found.verdict is Verdict.REGRESSED
    assert "at strength 0.5" in found.summary


def test_the_other_trigger_does_nothing(suite: Suite) -> None:
    """The model with the rare word is clean to the phrase, and the verdict says which was asked."""
    found = check_no_backdoor_activated(suite.pair("token-int8"), trigger=PHRASE.text)
    assert found.backdoor is not None
    assert found.backdoor.trigger.startswith('phrase "under seven copper lanterns"')
    removed = check_backdoor_removed(suite.pair("token-int8"), trigger=PHRASE.text)
    assert removed.verdict is Verdict.NOT_MEASURED
