"""The marker's arguments, and results out of what both models were asked, without the harness."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_compsec.checks.harness import measuring
from pytest_compsec.checks.harness.measuring import Asked, AskedTask
from pytest_compsec.checks.harness.metrics import MetricFacts, TaskFacts
from pytest_compsec.checks.harness.samples import Row, paired_rows
from pytest_compsec.checks.lm_eval_preserved import (
    check_lm_eval_preserved,
    lm_eval_preserved_arguments,
)
from pytest_compsec.errors import IntegrityError, MeasurementError, MissingExtraError
from pytest_compsec.reports.failure import failure_text
from pytest_compsec.verdict import CheckResult, Verdict


class Pair:
    """A pair on which the harness found ``asked``."""

    id = "tiny-variant"
    config_name = "compsec.yaml"

    def __init__(self, asked: Asked | Exception) -> None:
        self.asked = asked
        self.rechecked = 0
        self.keys: list[Any] = []

    def once(self, key: Any, measure: Callable[[], Any]) -> Asked:
        self.keys.append(key)
        if isinstance(self.asked, Exception):
            raise self.asked
        return self.asked

    def recheck(self) -> None:
        self.rechecked += 1

    def provenance_with(self, *files: Any) -> dict[str, Any]:
        return {"lock_digest": "f" * 64, "data": {file.name: file.sha256 for file in files}}


def task(
    name: str,
    original: list[float],
    compressed: list[float],
    *,
    of: int | None = None,
    **fields: Any,
) -> AskedTask:
    sides = [
        [
            Row(name, i, "none", f"d{i}", f"p{i}", "t", {"acc": score})
            for i, score in enumerate(side)
        ]
        for side in (original, compressed)
    ]
    facts = TaskFacts(
        name,
        "1",
        "generate_until",
        (MetricFacts("acc", True, "mean"),),
        0,
        of or len(original),
        fields.pop("data", "pinned"),
        **fields,
    )
    return AskedTask(name, (facts,), paired_rows(*sides))


def asked(*tasks: AskedTask) -> Asked:
    figures = {}
    for one in tasks:
        means = [
            math.fsum(pair[side].scores["acc"] or 0 for pair in one.pairs) / len(one.pairs)
            for side in (0, 1)
        ]
        figures[one.name, "acc,none"] = (means[0], means[1])
    return Asked(tasks, figures, (), {"lm_eval": "0.4.13"}, {"loglikelihood": 16})


def check(pair: Pair, **arguments: Any) -> CheckResult:
    result = check_lm_eval_preserved(pair, **{"tasks": ["a"], **arguments})  # type: ignore[arg-type]
    assert pair.rechecked == 1
    plain = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert CheckResult.from_json(plain).estimates == result.estimates
    return result


RIGHT = [1.0] * 180 + [0.0] * 20


def test_a_model_that_is_as_right_is_preserved() -> None:
    result = check(Pair(asked(task("a", RIGHT, RIGHT))))
    assert result.verdict is Verdict.PRESERVED
    assert result.summary == (
        "PRESERVED: tiny-variant: a acc 90 % -> 90 %, +0.0 [-1.3, +1.3], limit 2 % (200 documents)"
    )
    (estimate,) = result.estimates
    assert (estimate.unit, estimate.sample, estimate.limit) == ("points", "document", 0.02)
    assert "mean acc over the documents of a" in estimate.estimand
    assert "Tango" in estimate.method
    told = result.provenance["lm_eval"]
    assert told["versions"] == {"lm_eval": "0.4.13"}
    assert told["fewshot_seed"] == 1234
    assert told["tasks"]["a"]["version"] == "1"
    assert len(told["tasks"]["a"]["samples_sha256"]) == 64
    assert result.provenance["lock_digest"]


def test_every_task_must_hold() -> None:
    worse = [0.0] * 40 + RIGHT[40:]
    result = check(Pair(asked(task("a", RIGHT, RIGHT), task("b", RIGHT, worse))), tasks=["a", "b"])
    assert result.verdict is Verdict.REGRESSED
    assert [one.verdict for one in result.estimates] == ["PRESERVED", "REGRESSED"]
    text = failure_text([result])
    assert "b acc, document by document: 40 worse, 0 better" in text
    assert "LLM09" in text
    few = check(Pair(asked(task("a", RIGHT, RIGHT), task("b", RIGHT[:50], RIGHT[:50]))))
    assert few.verdict is Verdict.INCONCLUSIVE
    assert "b acc: about 149 documents instead of 50" in few.next_step


def test_a_task_with_nothing_to_lose_forbids_preserved() -> None:
    result = check(Pair(asked(task("a", RIGHT, RIGHT), task("b", [0.0] * 200, [0.0] * 200))))
    assert result.verdict is Verdict.NOT_MEASURED
    assert "the task has nothing to lose" in result.summary


def test_a_limit_is_told_with_how_many_documents_were_asked() -> None:
    result = check(Pair(asked(task("a", RIGHT, RIGHT, of=1000))), limit=200)
    assert "(200 documents)" in result.summary
    assert any("200 of 1000 documents were asked (limit)" in note for note in result.notes)
    assert result.provenance["lm_eval"]["limit"] == 200
    assert result.arguments["limit"] == 200
    assert not check(Pair(asked(task("a", RIGHT, RIGHT)))).notes[1:]


def test_data_of_the_hub_are_told_to_be_no_part_of_the_lock() -> None:
    found = task("a", RIGHT, RIGHT, data="hub", dataset_path="org/set")
    notes = check(Pair(asked(found))).notes
    assert any("org/set" in note and "names no revision and may change" in note for note in notes)
    pinned = task("a", RIGHT, RIGHT, data="hub", dataset_path="org/set", revision="0" * 40)
    notes = check(Pair(asked(pinned))).notes
    assert any("compsec.lock" in note and "may change" not in note for note in notes)


def test_what_cannot_be_measured_is_not_measured() -> None:
    pair = Pair(MeasurementError("the harness knows no task 'a'"))
    result = check(pair)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "knows no task" in result.summary
    unknown = check(Pair(asked(task("a", RIGHT, RIGHT))), metric="f1")
    assert unknown.verdict is Verdict.NOT_MEASURED
    assert "no metric 'f1'; it has acc" in unknown.summary


def test_what_is_tampered_with_is_no_result() -> None:
    pair: Any = Pair(IntegrityError("other bytes"))
    with pytest.raises(IntegrityError):
        check_lm_eval_preserved(pair, tasks="a")
    assert pair.rechecked == 1


def test_another_metric_of_the_same_documents_is_not_asked_again() -> None:
    pair = Pair(asked(task("a", RIGHT, RIGHT)))
    check(pair)
    pair.rechecked = 0
    check(pair, metric="acc", max_degradation=0.1)
    pair.rechecked = 0
    check(pair, limit=10)
    assert pair.keys[0] == pair.keys[1] != pair.keys[2]


def test_a_missing_harness_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    pair: Any = Pair(asked())
    monkeypatch.setattr(pair, "once", lambda key, measure: measure())
    plain = SimpleNamespace(served=None, runtime=None)
    pair.original_arm = pair.compressed_arm = plain
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(
        MissingExtraError, match=r'lm_eval.*pip install "pytest-compsec\[lm-eval\]"'
    ):
        check_lm_eval_preserved(pair, tasks="a")
    assert measuring  # imported beforehand: what is missing is the harness alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "must name one task"),
        ({"tasks": []}, "must name one task"),
        ({"tasks": ""}, "must name one task"),
        ({"tasks": 3}, "must be a name or a list of names"),
        ({"tasks": ["a", "a"]}, "names a task twice"),
        ({"metric": ""}, "name of a metric"),
        ({"metric": 1}, "name of a metric"),
        ({"include_path": ""}, "of a directory"),
        ({"limit": 0}, "limit=0"),
        ({"limit": True}, "limit=True"),
        ({"limit": 1.5}, "limit=1.5"),
        ({"max_degradation": 2}, "max_degradation=0.02"),
        ({"confidence": 0.4}, "confidence"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    given = arguments if not arguments or "tasks" in arguments else {"tasks": "a", **arguments}
    with pytest.raises(ValueError, match=message):
        lm_eval_preserved_arguments(**given)


def test_arguments_as_the_user_would_write_them() -> None:
    arguments = lm_eval_preserved_arguments(tasks="a", limit=0.5, variants="nf4")
    assert arguments.to_json() == {
        "max_degradation": 0.02,
        "confidence": 0.95,
        "models": None,
        "variants": ["nf4"],
        "tasks": ["a"],
        "metric": None,
        "limit": 0.5,
        "include_path": None,
    }
    assert arguments.prompts is None
    assert arguments.with_defaults(0.9).confidence == 0.9


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"served": object()}, "answered for by a server"), ({"runtime": object()}, "llama.cpp")],
)
def test_a_model_that_transformers_does_not_run_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], message: str
) -> None:
    pair: Any = Pair(asked())
    monkeypatch.setattr(pair, "once", lambda key, measure: measure())
    plain = {"served": None, "runtime": None}
    pair.original_arm = SimpleNamespace(name="tiny", **plain)
    pair.compressed_arm = SimpleNamespace(name="tiny-variant", **{**plain, **fields})
    result = check(pair)
    assert result.verdict is Verdict.NOT_MEASURED
    assert "tiny-variant is" in result.summary
    assert message in result.summary
