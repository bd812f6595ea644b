"""With lm-evaluation-harness itself: a tiny trained model, task files and no network."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pytest_compsec.checks.harness import running
from pytest_compsec.checks.lm_eval_preserved import check_lm_eval_preserved
from pytest_compsec.errors import ConfigError, IntegrityError
from pytest_compsec.suite import Suite, open_suite
from pytest_compsec.verdict import CheckResult, Verdict
from tests.unit.checks.harness_project import CONFIG, DOCUMENTS, MANNERS, make_project, pin

pytestmark = pytest.mark.heavy

MORE = {
    "both.yaml": "group: both\ntask: [manners, written]\n",
    "half.yaml": "include: manners.yaml\ntask: half\nprocess_docs: !function utils.first_half\n",
    "utils.py": "def first_half(rows):\n    return rows.select(range(len(rows) // 2))\n",
    "shots.yaml": (
        "include: manners.yaml\ntask: shots\nnum_fewshot: 2\nfewshot_config: {sampler: default}\n"
        "fewshot_split: test\n"
    ),
    "runs-code.yaml": "include: manners.yaml\ntask: runs-code\nunsafe_code: true\n",
    "odd.yaml": 'include: manners.yaml\ntask: odd\ndoc_to_text: "{{no_such_column}}"\n',
    "worse.yaml": (
        "include: manners.yaml\ntask: worse\nprocess_results: !function utils2.wrong\n"
        "metric_list:\n"
        "  - {metric: wrong, aggregation: mean, higher_is_better: false}\n"
        "  - {metric: graded, aggregation: mean, higher_is_better: true}\n"
        "  - {metric: surprise, aggregation: perplexity, higher_is_better: false}\n"
    ),
    "utils2.py": (
        "def wrong(doc, results):\n"
        "    right = results[doc['answer']][0] > results[1 - doc['answer']][0]\n"
        "    return {'wrong': int(not right), 'graded': 0.25 + 0.5 * right,\n"
        "            'surprise': results[doc['answer']][0]}\n"
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_project(tmp_path_factory.mktemp("harness"))
    for name, text in MORE.items():
        (root / "tasks" / name).write_text(text, encoding="utf-8")
    entries = [f"  more-{name.replace('.', '-')}: {{file: ./tasks/{name}}}\n" for name in MORE]
    (root / "compsec.yaml").write_text(CONFIG + "".join(entries), encoding="utf-8")
    pin(root)
    return root


@pytest.fixture(scope="module")
def suite(root: Path) -> Iterator[Suite]:
    with open_suite(root / "compsec.yaml") as suite:
        yield suite


def check(suite: Suite, variant: str, tasks: Any, **arguments: Any) -> CheckResult:
    arguments = {"include_path": "tasks", **arguments}
    return check_lm_eval_preserved(suite.pair(f"tiny-{variant}"), tasks=tasks, **arguments)


def test_the_benign_twin_is_green_and_the_damaged_one_red(suite: Suite) -> None:
    benign = check(suite, "bf16", ["manners", "written"])
    assert benign.verdict is Verdict.PRESERVED
    assert [one.name for one in benign.estimates] == ["manners acc", "written exact_match,whole"]
    assert all(one.original == 1.0 and one.samples == DOCUMENTS for one in benign.estimates)
    damaged = check(suite, "pruned90", ["manners", "written"])
    assert damaged.verdict is Verdict.REGRESSED
    assert {one.verdict for one in damaged.estimates} == {"REGRESSED"}
    assert any("worse: manners:" in note for note in damaged.notes)


def test_the_result_tells_what_it_was_measured_with(suite: Suite) -> None:
    result = check(suite, "bf16", ["manners", "written"])
    told = result.provenance["lm_eval"]
    assert set(told["versions"]) == {"lm_eval", "datasets"}
    task = told["tasks"]["manners"]
    assert (task["version"], task["data"], task["documents"]) == ("3", "pinned", DOCUMENTS)
    files = result.provenance["data"]
    assert {"manners", "manners-rows", "written"} <= set(files)
    assert all(len(file["sha256"]) == 64 for file in files.values())
    assert not result.notes[2:]  # nothing of a hub, nothing of a limit


def test_a_limit_leaves_too_few(suite: Suite) -> None:
    result = check(suite, "bf16", "manners", limit=20)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "(20 documents)" in result.summary
    assert any("20 of 200 documents were asked" in note for note in result.notes)


def test_groups_functions_and_examples_work_from_the_copies(suite: Suite) -> None:
    result = check(suite, "bf16", ["half", "shots"], max_degradation=0.2, limit=60)
    half, shots = result.estimates
    assert (half.samples, shots.samples) == (60, 60)
    told = result.provenance["lm_eval"]["tasks"]
    assert (told["half"]["documents"], told["shots"]["num_fewshot"]) == (DOCUMENTS // 2, 2)
    assert told["half"]["samples_sha256"] != told["shots"]["samples_sha256"]
    group = check(suite, "bf16", "both", limit=5)
    assert group.verdict is Verdict.NOT_MEASURED  # they have no metric in common
    assert "'both' has no metric with a number for each document" in group.summary


def test_metrics_of_a_task_of_its_own(suite: Suite) -> None:
    lower = check(suite, "pruned90", "worse", metric="wrong", limit=40)
    (estimate,) = lower.estimates
    assert lower.verdict is Verdict.REGRESSED
    assert estimate.original == 0
    assert estimate.change is not None
    assert estimate.change > 0.2
    graded = check(suite, "pruned90", "worse", limit=40)
    assert graded.estimates[0].name == "worse graded"
    assert "Waudby-Smith" in graded.estimates[0].method
    surprise = check(suite, "pruned90", "worse", metric="surprise", limit=40)
    assert surprise.verdict is Verdict.NOT_MEASURED
    assert "capability_preserved" in surprise.summary


@pytest.mark.parametrize(
    ("tasks", "metric", "message"),
    [
        ("maners", None, "knows no task 'maners'; did you mean 'manners'?"),
        ("manners", "accuracy", "it has acc, f1"),
        ("manners", "f1", "whole corpus"),
        ("runs-code", None, "marked as unsafe"),
        ("odd", None, "cannot open the task 'odd'"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(
    suite: Suite,
    tasks: str,
    metric: str | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # An unknown name is looked for among the thousands that the harness brings: not here.
    monkeypatch.setattr("lm_eval.tasks.manager.__file__", "/nowhere/manager.py")
    result = check(suite, "bf16", tasks, metric=metric, limit=7)
    assert result.verdict is Verdict.NOT_MEASURED
    assert message in result.summary
    assert "\n" not in result.summary


def test_files_that_are_not_pinned_are_not_measured(suite: Suite, root: Path) -> None:
    extra = root / "tasks" / "extra.yaml"
    extra.write_text(MANNERS.replace("task: manners", "task: extra"), encoding="utf-8")
    try:
        result = check(suite, "bf16", "extra", limit=8)
    finally:
        extra.unlink()
    assert result.verdict is Verdict.NOT_MEASURED
    assert "`extra: {file: ./tasks/extra.yaml}`" in result.summary


def test_a_changed_task_or_data_file_is_an_integrity_error(suite: Suite, root: Path) -> None:
    rows = root / "tasks" / "manners.jsonl"
    before = rows.read_bytes()
    rows.write_bytes(before.replace(b'"answer": 0', b'"answer": 1'))
    try:
        with open_suite(root / "compsec.yaml") as other, pytest.raises(IntegrityError):
            check(other, "bf16", "manners", limit=9)
    finally:
        rows.write_bytes(before)


def test_a_task_file_that_leads_elsewhere_is_a_config_error(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "tasks").mkdir(parents=True)
    (project / "original").symlink_to(root / "original")
    (project / "tasks" / "far.yaml").write_text("task: far\ninclude: ../x.yaml\n", encoding="utf-8")
    config = CONFIG[: CONFIG.index("data:")] + "data: {far: {file: ./tasks/far.yaml}}\n"
    (project / "compsec.yaml").write_text(config, encoding="utf-8")
    pin(project)
    with (
        open_suite(project / "compsec.yaml") as other,
        pytest.raises(ConfigError, match=r"tasks/far.yaml:2: includes"),
    ):
        check(other, "bf16", "far")


def test_models_random_state_and_screen_are_left_as_they_were(
    suite: Suite,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = suite.pair("tiny-pruned90")
    module: Any = pair.compressed.module
    padding, place = pair.compressed.tokenizer.padding_side, Path.cwd()
    told: list[str] = []
    # Tying a compressed model's last layer to its embedding would undo its compression.
    monkeypatch.setattr(type(module), "tie_weights", lambda *_, **__: told.append("tied"))
    drawn = []
    state = torch.get_rng_state()
    for asked in (False, True):
        random.seed(7)
        np.random.seed(7)
        if asked:
            with caplog.at_level(logging.WARNING):
                check(suite, "pruned90", "manners", limit=11)
        drawn.append((random.random(), np.random.random()))
    assert told == []
    assert "tie_weights" not in vars(module)
    assert drawn[0] == drawn[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert Path.cwd() == place
    assert pair.compressed.tokenizer.padding_side == padding
    assert not caplog.records
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "it/s" not in printed.err


def test_the_original_is_asked_once_for_all_its_variants(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def noted(harness: Any, opened: Any, model: Any, *others: Any) -> running.ArmRun:
        asked.append(model.arm.name)
        return run_arm(harness, opened, model, *others)

    run_arm = running.run_arm
    monkeypatch.setattr(running, "run_arm", noted)
    results = [check(suite, variant, "manners", limit=13) for variant in ("bf16", "pruned90")]
    assert asked == ["tiny", "tiny-bf16", "tiny-pruned90"]
    assert [result.estimates[0].original for result in results] == [1.0, 1.0]
    check(suite, "bf16", "manners", limit=13, max_degradation=0.3)
    assert len(asked) == 3


def test_both_models_are_asked_the_same_examples(suite: Suite) -> None:
    # Drawing moves the sampler on: without the same seed anew for each model these would differ,
    # and nothing would be paired.
    result = check(suite, "pruned90", "shots", limit=30)
    assert result.estimates[0].samples == 30
